"""Datasets from docstrings of Python's standard library.

They are summaries, questions, choices and preferences. In each of them, all rows of a module are in
one split, chosen by the hash of its path, as in tfds:python_stdlib. The text is real; labels and
questions follow the rules stated below and were not checked by people.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt_jax.tasks.synthetic import library
from gpt_jax.tasks.synthetic.library import LibraryFunction, Splits, empty_splits, hash_to_split


def _qualified_name(function: LibraryFunction) -> str:
    return f'{function.owner}.{function.name}'.strip('.')


def _seed_rng(key: str) -> random.Random:
    return random.Random(hashlib.sha256(key.encode()).digest())


# Summaries: the target is the first sentence of a function's docstring. These sentences are short
# (a dozen words) and only about code, and some are not a summary at all ("See above.").

MAX_SOURCE = 440  # characters of a function
MIN_SUMMARY, MAX_SUMMARY = 15, 160  # characters


def make_summaries_rows(stdlib: Path) -> Splits:
    """Return rows with 'source' (a function without docstring), 'summary', 'module', 'name'."""
    splits = empty_splits()
    for function in library.list_functions(stdlib):
        summary = library.extract_first_sentence(function.doc)
        source = function.head + function.body
        if len(source) > MAX_SOURCE or summary in source:
            continue
        if MIN_SUMMARY <= len(summary) <= MAX_SUMMARY:
            row = {'source': source, 'summary': summary}
            row |= {'module': function.module, 'name': function.name}
            splits[function.split].append(row)
    return splits


# Questions: extractive question answering in the layout of SQuAD. The texts are docstrings with
# their function's first line, and paragraphs of the sections that `help()` shows
# (pydoc_data.topics). Each rule matches a pattern and asks for one span of it:
#
#   'Return X.'                     What does f return?                          X
#   'raises E if Y.'                Which error comes from f if Y?               E
#                                   When does f raise E?                         if Y
#   'f(a, b=D)'                     What is the default of b in f?               D
#   'name -- text', 'name: text'    What is name in f?                           text
#   'The X is Y.'                   What is the X?                               Y
#   'Changed in version V: text.'   Which version of Python brought this: text?  V
#                                   What came with version V?                    text
#
# Limits: this is not SQuAD. Some questions are odd, and many share words with the text around the
# answer. All questions on a section are in one split, chosen by the hash of its name; a model that
# was trained on tfds:python_stdlib has seen all sections, and the suite's contamination report
# counts them.

MAX_CONTEXT = 440  # characters
ANSWER_LENGTHS = range(1, 121)  # characters
MAX_QUESTIONS = 3  # per context

Questions = Iterator[tuple[str, int, int]]  # a question, and start and end of its answer

_ERROR = (
    r'(?:an?\s+)?[`*\']*(\w*(?:Error|Exception|Warning|StopIteration))\b[`*\']*(?:\s+exception)?'
)
_RAISES = re.compile(rf'[Rr]aises?\s+{_ERROR}\s+((?:if|when|unless)\s+[^.]+?)\.(?:\s|$)', re.DOTALL)
_RETURNS = re.compile(r'\bReturns?:?\s+([^."]{3,120}?)(?:\.(?=[\s"])|""")')
_DEFAULT = re.compile(r'(\w+)\s*=\s*([\w.]+|\'[^\']*\'|"[^"]*"|\(\)|\[\]|\{\}|-\d+)\s*[,)]')
_DESCRIPTION = re.compile(
    r'^\s*[*`\']*([a-z_]\w*)[*`\']*(?:\s+--\s+|:\s+)(\S[^\n]{5,})$', re.MULTILINE
)
_DEFINITION = re.compile(
    r'(?:^|\.\s+)(The|An?)\s+([\w"`* -]{3,40}?)\s+(is|are)\s+'
    r'((?:an?|the|used|called)\s[^.]{10,110})\.(?=\s|$)'
)
_CHANGE = re.compile(
    r'(Changed|New|Deprecated since|Added)\s*(?:in)?\s+version\s+(\d\.\d+(?:\.\d+)?):\s+'
    r'([^.]{10,150})\.'
)
_ARTICLE = re.compile(r'(?:an?|the)\s+(?=\S)', re.IGNORECASE)


def make_questions_rows(stdlib: Path) -> Splits:
    """Return rows with 'context', 'question', 'answers', 'title' and 'id'.

    'answers' is {'text': [...], 'answer_start': [...]}.
    """
    splits = empty_splits()
    for function in library.list_functions(stdlib):
        doc = function.doc if '\n\n' in function.doc else ' '.join(function.doc.split())
        context = function.head + library.format_docstring(doc)
        questions = [item for rule in QUESTION_RULES for item in rule(context, function)]
        _add_questions(splits, function.split, function.module, context, questions)
    for title, section in library.read_help_topics(stdlib).items():
        for paragraph in re.split(r'\n\s*\n', section):
            context = ' '.join(paragraph.split())
            questions = [*_ask_definition(context), *_ask_change(context)]
            _add_questions(splits, hash_to_split(title), title, context, questions)
    return splits


def _add_questions(
    splits: Splits, split: str, title: str, context: str, questions: list[tuple[str, int, int]]
) -> None:
    if len(context) > MAX_CONTEXT:
        return
    rows = splits[split]
    recent = {row['question'] for row in rows[-MAX_QUESTIONS:]}
    for question, start, end in questions[:MAX_QUESTIONS]:
        answer = context[start:end].rstrip()
        if len(answer) not in ANSWER_LENGTHS or '\n' in answer or question in recent:
            continue
        answers = {start: answer}
        if article := _ARTICLE.match(answer):
            answers[start + article.end()] = answer[article.end() :]
        rows.append(
            {
                'id': f'{split}-{len(rows)}',
                'title': title,
                'context': context,
                'question': ' '.join(question.split()),
                'answers': {'text': list(answers.values()), 'answer_start': list(answers)},
            }
        )


def _ask_returns(context: str, function: LibraryFunction) -> Questions:
    if match := _RETURNS.search(context):
        yield f'What does {_qualified_name(function)} return?', *match.span(1)


def _ask_raises(context: str, function: LibraryFunction) -> Questions:
    name = _qualified_name(function)
    for match in _RAISES.finditer(context):
        yield f'Which error comes from {name} {match[2]}?', *match.span(1)
        yield f'When does {name} raise {match[1]}?', *match.span(2)


def _ask_default(context: str, function: LibraryFunction) -> Questions:
    for match in _DEFAULT.finditer(context, 0, len(function.head)):
        if match[2] != 'None':  # too frequent
            yield (
                f'What is the default of {match[1]} in {_qualified_name(function)}?',
                *match.span(2),
            )


def _ask_description(context: str, function: LibraryFunction) -> Questions:
    for match in _DESCRIPTION.finditer(context, len(function.head)):
        if match[1] in function.arguments:
            yield f'What is {match[1]} in {_qualified_name(function)}?', *match.span(2)


def _ask_definition(context: str) -> Questions:
    for match in _DEFINITION.finditer(context):
        yield f'What {match[3]} {match[1].lower()} {match[2]}?', *match.span(4)


def _ask_change(context: str) -> Questions:
    for match in _CHANGE.finditer(context):
        yield f'Which version of Python brought this: {match[3]}?', *match.span(2)
        yield f'What came with version {match[2]}?', *match.span(3)


QUESTION_RULES: tuple[Callable[[str, LibraryFunction], Questions], ...] = (
    _ask_returns,
    _ask_raises,
    _ask_description,
    _ask_default,
)


# Choices: which of four sentences follows a sentence of a docstring? The other three follow
# sentences of other docstrings, from the same module if it has enough, so that the subject alone
# does not give the answer away. It is unknown how well people would do, and this does not test
# common sense.

MIN_ENDING, MAX_ENDING = 25, 90  # characters
MAX_CHOICE_CONTEXT = 155  # characters; all four endings then fit into one row of 1,024 bytes
MAX_SENTENCES = 6  # per docstring
ENDINGS = 4
_SENTENCE_END = re.compile(r'(?<=[.!?])\s+(?=[A-Z`"\'*])')

Continuation = tuple[str, str, str]  # context, ending, docstring


def make_choices_rows(stdlib: Path) -> Splits:
    """Return rows with 'context', 'endings' (four) and 'label' (index of the right one)."""
    splits = empty_splits()
    for split, rows in splits.items():
        continuations_of: dict[str, list[Continuation]] = {}
        for function in library.list_functions(stdlib):
            if function.split == split:
                continuations = continuations_of.setdefault(function.module, [])
                continuations += _list_continuations(function)
        pool = list(itertools.chain.from_iterable(continuations_of.values()))
        for module, continuations in continuations_of.items():
            for context, ending, doc in continuations:
                rng = _seed_rng(f'{module} {context}')
                others = _sample_endings(rng, continuations, doc)
                others += _sample_endings(rng, pool, doc)
                endings = [ending, *dict.fromkeys(others)][:ENDINGS]
                if len(endings) == ENDINGS:
                    rng.shuffle(endings)
                    label = endings.index(ending)
                    rows.append({'context': context, 'endings': endings, 'label': label})
    return splits


def _list_continuations(function: LibraryFunction) -> list[Continuation]:
    """Return pairs of adjacent sentences from a docstring's start, up to its first doctest."""
    text = function.doc.partition('>>>')[0]
    sentences = _SENTENCE_END.split(' '.join(text.split()))[:MAX_SENTENCES]
    continuations = []
    for sentence, ending in itertools.pairwise(sentences):
        context = f'{_qualified_name(function)}: {sentence}'
        if len(context) <= MAX_CHOICE_CONTEXT and MIN_ENDING <= len(ending) <= MAX_ENDING:
            continuations.append((context, ending, function.doc))
    return continuations


def _sample_endings(rng: random.Random, pool: list[Continuation], doc: str) -> list[str]:
    """Return up to three distinct endings of the pool that do not occur in this docstring."""
    text = ' '.join(doc.split())
    sample = rng.sample(pool, min(12, len(pool)))
    return list(dict.fromkeys(ending for _, ending, _ in sample if ending not in text))[:3]


# Preferences: two answers to the question what a function does. The chosen one is the first
# sentence of its docstring. The rejected one is the first sentence of another function in the
# module ('other'), or the chosen one cut off ('cut'), repeated ('twice'), or wrapped in chatter
# ('talk'). These are not human preferences.

MIN_ANSWER, MAX_ANSWER = 20, 160  # characters
REJECTION_RULES = ('other', 'cut', 'twice', 'talk')
TALK_FORMS = (
    'That is a very good question! I would say, though I may be wrong: {} I hope that helps!',
    'As you will surely know, there is much to be said about {name}. '
    'In a way, {} But who can tell?',
    'Well, well. {} Do ask me more, I love to answer!',
)


def make_preferences_rows(stdlib: Path) -> Splits:
    """Return rows with 'prompt', 'chosen', 'rejected' and 'rule' (of REJECTION_RULES)."""
    splits = empty_splits()
    sentences_of: dict[str, dict[str, str]] = {}
    split_of: dict[str, str] = {}
    for function in library.list_functions(stdlib):
        sentence = library.extract_first_sentence(function.doc)
        if MIN_ANSWER <= len(sentence) <= MAX_ANSWER and sentence.endswith('.'):
            sentences = sentences_of.setdefault(function.module, {})
            sentences.setdefault(_qualified_name(function), sentence)
            split_of[function.module] = function.split
    for module, sentences in sentences_of.items():
        for name, chosen in sentences.items():
            rng = _seed_rng(f'{module}.{name}')
            others = [sentence for sentence in sentences.values() if sentence != chosen]
            rule = rng.choice(REJECTION_RULES if others else REJECTION_RULES[1:])
            row = {'prompt': f'What does {module}.{name} do?', 'chosen': chosen}
            row['rejected'] = (
                rng.choice(others) if rule == 'other' else _degrade(rng, rule, chosen, name)
            )
            splits[split_of[module]].append(row | {'rule': rule})
    return splits


def _degrade(rng: random.Random, rule: str, answer: str, name: str) -> str:
    words = answer.split()
    if rule == 'cut':
        return ' '.join(words[: rng.randrange(1, max(2, 2 * len(words) // 3))])
    if rule == 'twice':
        return f'{answer} {answer}'
    return rng.choice(TALK_FORMS).format(answer, name=name)
