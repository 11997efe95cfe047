"""Which stretch of the text answers the question? Questions by stated rules on the real documentation of Python.

The texts are docstrings with their function's first line, and paragraphs of the sections that `help()` shows
(pydoc_data.topics). Every rule finds a pattern, asks for one stretch of it, and names where in the text that stands:

  'Return X.'                        What does f return?                      X
  'raises E if Y'                    Which error comes if Y? / When is E raised by f?
  'f(a, b=D)'                        What is the default of b in f?           D
  'name -- text', 'name: text'       What is name in f?                       text
  'The X is Y.'                      What is X?                               Y
  'Changed in version V: text.'      Which version changed this: text?        V

What it is not: SQuAD. Questions are the rules', some of them odd, and many share words with what stands beside the
answer. The layout is SQuAD's. A module is in one split as a whole; a section likewise, by the hash of its name,
though a model that was trained on tfds:python_stdlib has read all sections: the suite's contamination says how many.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt_jax.data.made import library
from gpt_jax.data.made.library import Function
from gpt_jax.data.made.splits import Splits, empty, split_of

LONGEST = 440  # characters of a text
ANSWER = range(1, 121)  # characters of an answer
EACH = 3  # questions about one text

Found = Iterator[tuple[str, int, int]]  # a question, and where in the text its answer begins and ends

_ERROR = r'(?:an?\s+)?[`*\']*(\w*(?:Error|Exception|Warning|StopIteration))\b[`*\']*(?:\s+exception)?'
_RAISES = re.compile(rf'[Rr]aises?\s+{_ERROR}\s+((?:if|when|unless)\s+[^.]+?)\.(?:\s|$)', re.DOTALL)
_RETURNS = re.compile(r'\bReturns?:?\s+([^."]{3,120}?)(?:\.(?=[\s"])|""")')
_DEFAULT = re.compile(r'(\w+)\s*=\s*([\w.]+|\'[^\']*\'|"[^"]*"|\(\)|\[\]|\{\}|-\d+)\s*[,)]')
_DESCRIBED = re.compile(r'^\s*[*`\']*([a-z_]\w*)[*`\']*(?:\s+--\s+|:\s+)(\S[^\n]{5,})$', re.MULTILINE)
_IS = re.compile(
    r'(?:^|\.\s+)(The|An?)\s+([\w"`* -]{3,40}?)\s+(is|are)\s+((?:an?|the|used|called)\s[^.]{10,110})\.(?=\s|$)'
)
_CHANGED = re.compile(
    r'(Changed|New|Deprecated since|Added)\s*(?:in)?\s+version\s+(\d\.\d+(?:\.\d+)?):\s+([^.]{10,150})\.'
)


def rows(stdlib: Path) -> Splits:
    """Rows with 'context', 'question' and 'answers' ({'text': [...], 'answer_start': [...]}), 'title' and 'id'."""
    made = empty()
    for function in library.functions(stdlib):
        doc = function.doc if '\n\n' in function.doc else ' '.join(function.doc.split())
        text = function.head + library.docstring(doc)
        _add(
            made,
            function.split,
            function.module,
            text,
            [question for rule in RULES for question in rule(text, function)],
        )
    for title, section in library.topics(stdlib).items():
        for paragraph in re.split(r'\n\s*\n', section):
            text = ' '.join(paragraph.split())
            _add(made, split_of(title), title, text, [*_is(text), *_changed(text)])
    return made


def _add(made: Splits, split: str, title: str, text: str, found: list[tuple[str, int, int]]) -> None:
    if len(text) > LONGEST:
        return
    known = {row['question'] for row in made[split][-EACH:]}
    for question, begin, end in found[:EACH]:
        answer = text[begin:end].rstrip()
        if len(answer) in ANSWER and '\n' not in answer and question not in known:
            spans = {begin: answer}
            if article := re.match(r'(?:an?|the)\s+(?=\S)', answer, re.IGNORECASE):
                spans[begin + article.end()] = answer[article.end() :]
            answers = {'text': list(spans.values()), 'answer_start': list(spans)}
            made[split].append({'id': f'{split}-{len(made[split])}', 'title': title, 'context': text,
                                'question': ' '.join(question.split()), 'answers': answers})  # fmt: skip


def _name(function: Function) -> str:
    return f'{function.owner}.{function.name}'.strip('.')


def _returns(text: str, function: Function) -> Found:
    for match in _RETURNS.finditer(text):
        yield f'What does {_name(function)} return?', *match.span(1)
        return


def _raises(text: str, function: Function) -> Found:
    for match in _RAISES.finditer(text):
        yield f'Which error comes from {_name(function)} {match[2]}?', *match.span(1)
        yield f'When does {_name(function)} raise {match[1]}?', *match.span(2)


def _defaults(text: str, function: Function) -> Found:
    for match in _DEFAULT.finditer(text, 0, len(function.head)):
        if match[2] != 'None':  # too many are
            yield f'What is the default of {match[1]} in {_name(function)}?', *match.span(2)


def _described(text: str, function: Function) -> Found:
    for match in _DESCRIBED.finditer(text, len(function.head)):
        if match[1] in function.arguments:
            yield f'What is {match[1]} in {_name(function)}?', *match.span(2)


def _is(text: str) -> Found:
    for match in _IS.finditer(text):
        yield f'What {match[3]} {match[1].lower()} {match[2]}?', *match.span(4)


def _changed(text: str) -> Found:
    for match in _CHANGED.finditer(text):
        yield f'Which version of Python brought this: {match[3]}?', *match.span(2)
        yield f'What came with version {match[2]}?', *match.span(3)


RULES: tuple[Callable[[str, Function], Found], ...] = (_returns, _raises, _described, _defaults)
