"""Which words name a module, a class or a function? Sentences from Python's library, tagged by its syntax.

A word is tagged where it is written as a name (a_b, aB, f(), `x`, a.b) or its sentence says what it is ("the shutil
module"), and the parsed sources know it: as a module of the library, as a class or function of the sentence's own
module or of one that it names, or as a built-in one. The text is real, of docstrings; the tags are a program's, without
a person's eye: a name that no source defines stays O.

What it is not: names of people and places. A module is in one split as a whole, by the hash of its path.
"""

import builtins
import re
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.data.made import library
from gpt_jax.data.made.library import Module
from gpt_jax.data.made.splits import Splits, empty

KINDS = ('MODULE', 'CLASS', 'FUNCTION')
LABELS = ('O', *(f'{side}-{kind}' for kind in KINDS for side in 'BI'))
SHORTEST, LONGEST = 5, 40  # words of a sentence
QUOTES = ('`', "'", '"')
BUILT_IN = {name: 'CLASS' if isinstance(held, type) else 'FUNCTION'
            for name, held in vars(builtins).items() if callable(held) and not name.startswith('_')}  # fmt: skip
_SENTENCE = re.compile(r'(?<=[.!?])\s+(?=[A-Z`"\'])')
_WORD = re.compile(r'\w+|[^\w\s]')
_NAME = re.compile(r'[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*')
_SAYS_AFTER = re.compile(r'`*\s+(module|package|class|function|method)\b')
_SAYS_BEFORE = re.compile(r'\b(module|package|class|function|method)\s+`*$')
_WRITTEN = re.compile(r'.*[a-z0-9][A-Z]|.*\w_\w|.*\.|[A-Z]\w+(?:Error|Exception|Warning)$')


Names = dict[str, dict[str, str]]  # of a module: what it defines, 'CLASS' or 'FUNCTION'


def rows(stdlib: Path) -> Splits:
    """Rows with 'words' and 'tags' (of LABELS): sentences with a name, and about a third as many without any."""
    modules = library.modules(stdlib)
    names: Names = {name: {} for module in modules for name in module.imported}
    names |= {module.name: _defined(module) for module in modules}
    made, seen, counts = empty(), set[str](), {True: 0, False: 0}
    for module in modules:
        for sentence in _sentences(module):
            words, tags = _tagged(sentence, module, names)
            tagged = any(tag != 'O' for tag in tags)
            wanted = tagged or 3 * counts[False] < counts[True]
            if sentence not in seen and SHORTEST <= len(words) <= LONGEST and wanted:
                seen.add(sentence)
                counts[tagged] += 1
                made[module.split].append({'words': words, 'tags': tags, 'module': module.name})
    return made


def _defined(module: Module) -> dict[str, str]:
    return dict.fromkeys(module.defined, 'FUNCTION') | {name: 'CLASS' for name, _ in module.classes}


def _sentences(module: Module) -> Iterator[str]:
    docs = [module.doc, *(doc for _, doc in module.classes), *(function.doc for function in module.functions)]
    for doc in docs:
        for paragraph in re.split(r'\n\s*\n', doc):
            if '>>>' in paragraph or re.search(r'\n\s{2,}', paragraph):  # examples and tables are no sentences
                continue
            for sentence in _SENTENCE.split(' '.join(paragraph.split())):
                if sentence.endswith(('.', '!', '?')):
                    yield sentence


def _tagged(sentence: str, module: Module, names: Names) -> tuple[list[str], list[str]]:
    kinds = {at: (kind, end) for at, end, kind in _named(sentence, module, names)}
    words, tags, kind, end = [], [], '', 0
    for match in _WORD.finditer(sentence):
        begins = match.start() in kinds
        if begins:
            kind, end = kinds[match.start()]
        words.append(match[0])
        tags.append('O' if match.start() >= end else f'{"B" if begins else "I"}-{kind}')
    return words, tags


def _named(sentence: str, module: Module, names: Names) -> Iterator[tuple[int, int, str]]:
    """(begin, end, kind) of each name in the sentence."""
    own = BUILT_IN | names[module.name]
    for match in _NAME.finditer(sentence):
        name, before, after = match[0], sentence[: match.start()], sentence[match.end() :]
        called = after.startswith('(')
        quoted = before.endswith(QUOTES) and after.startswith(QUOTES)
        says = _SAYS_AFTER.match(after) or _SAYS_BEFORE.search(before)
        if not (_WRITTEN.match(name) or called or quoted or says):
            continue
        holder, _, last = name.rpartition('.')
        kind = names[holder].get(last) if holder in names else own.get(last)
        if name in names and not called and (says is None or says[1] in ('module', 'package')):
            kind = 'MODULE'
        if kind:
            yield match.start(), match.end(), kind
