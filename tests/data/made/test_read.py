"""Do sets that are read from Python's library say what stands there?"""

import ast
import re

import pytest

from gpt_jax.data import made
from gpt_jax.data.made import choices, dialogue, entities, library, preferences, questions, summaries


def every(splits):
    return [row for rows in splits.values() for row in rows]


def flat(text):
    return ' '.join(text.split())


def test_summaries_are_not_in_what_they_sum_up(small_stdlib):
    rows = every(summaries.rows(small_stdlib))
    assert len(rows) > 300
    assert not [row for row in rows if row['summary'] in row['source']]
    (row,) = [row for row in rows if row['name'] == 'shorten']
    assert row['source'].startswith('def shorten(text, width, **kwargs):\n    w = TextWrapper(')
    assert row['summary'] == 'Collapse and truncate the given text to fit in the given width.'


def test_answers_stand_where_they_are_said_to(small_stdlib):
    rows = every(questions.rows(small_stdlib))
    for row in rows:
        texts, starts = row['answers']['text'], row['answers']['answer_start']
        assert texts
        for text, start in zip(texts, starts, strict=True):
            assert row['context'][start : start + len(text)] == text
    asked = {row['question']: row['answers']['text'] for row in rows}
    assert asked['What does stdev return?'] == [
        'the square root of the sample variance',
        'square root of the sample variance',
    ]
    assert asked['What is the default of sigma in NormalDist.__init__?'] == ['1.0']
    assert len({re.match(r'\w+ \w+', row['question'])[0] for row in rows}) >= 5  # several rules found something


def test_dialogues_answer_what_was_shown(small_stdlib):
    rows = every(dialogue.rows(small_stdlib))
    counts = {'takes': 0, 'raises': 0, 'another': 0}
    for row in rows:
        turns = row['messages']
        assert [turn['role'] for turn in turns] == ['user', 'assistant'] * (len(turns) // 2)
        shown = None
        for asked, answer in zip(turns[::2], turns[1::2], strict=True):
            counts['another'] += shown is not None and 'def ' in asked['content']
            if 'def ' in asked['content']:
                source, question = asked['content'].split('\n\n', 1)[1].rpartition('\n')[::2]
                (shown,) = ast.parse(source).body
            else:
                question = asked['content']
            if question in ('What does it take?', 'Which arguments has it?', 'What do I pass to it?'):
                arguments = shown.args.posonlyargs + shown.args.args + shown.args.kwonlyargs
                names = [one.arg for one in arguments if one.arg not in ('self', 'cls')]
                assert re.findall(r'\w+', answer['content'].removeprefix('It takes').replace(' and ', ' ')) == (
                    names or ['nothing']
                )
                counts['takes'] += 1
            if question in ('What does it raise?', 'Which errors come from it?') and 'def ' not in ast.unparse(
                shown.body
            ):
                raised = [one.exc for one in ast.walk(shown) if isinstance(one, ast.Raise) and one.exc is not None]
                assert (answer['content'] == 'It raises nothing itself.') == (not raised)
                counts['raises'] += 1
    assert min(counts.values()) > 20


def test_endings_go_on(small_stdlib):
    """One of the four does, and none of the others stands in that docstring."""
    docs = {}
    for one in library.functions(small_stdlib):
        docs.setdefault(f'{one.owner}.{one.name}'.lstrip('.'), []).append(flat(one.doc))
    rows = every(choices.rows(small_stdlib))
    for row in rows:
        name, _, told = row['context'].partition(': ')
        right = row['endings'][row['label']]
        assert len(set(row['endings'])) == 4
        (doc, *_) = [one for one in docs[name] if f'{told} {right}' in one]
        assert [one for one in row['endings'] if one in doc] == [right]
        assert sum(len(f'{row["context"]} {one}'.encode()) + 3 for one in row['endings']) <= 1024
    labels = [row['label'] for row in rows]
    assert min(labels.count(number) for number in range(4)) > len(rows) / 8


def test_worse_answers_are_worse_by_their_rule(small_stdlib):
    rows = every(preferences.rows(small_stdlib))
    for row in rows:
        chosen, rejected = row['chosen'], row['rejected']
        told = {
            'other': rejected != chosen and rejected.endswith('.'),
            'cut': chosen.startswith(rejected) and len(rejected) < len(chosen),
            'twice': rejected == f'{chosen} {chosen}',
            'talk': chosen in rejected and len(rejected) > len(chosen) + 20,
        }
        assert told[row['rule']]
    assert {row['rule'] for row in rows} == {'other', 'cut', 'twice', 'talk'}


SOURCE = '''"""Use the spam module and spam.fry, too. The class Egg raises ValueError in `boil`, but a list is long."""
import spam.deep
import spam

class Egg:
    """The Egg class and its boil() method do cook. Copy and open are plain words here."""

def boil():
    """Call boil_over() or spam.deep.fry(x) now."""
    return 1

def boil_over():
    return 2
'''


def test_names_are_tagged(tmp_path):
    (tmp_path / 'kitchen.py').write_text(SOURCE)
    (tmp_path / 'spam').mkdir()
    (tmp_path / 'spam' / '__init__.py').write_text('def fry():\n    return 3\n')
    (tmp_path / 'spam' / 'deep.py').write_text('class fry:\n    x = 3\n')
    tagged = []
    for row in every(entities.rows(tmp_path)):
        marked = zip(row['words'], row['tags'], strict=True)
        tagged.append(' '.join(word if tag == 'O' else f'{word}/{tag}' for word, tag in marked))
    expected = [
        'Use the spam/B-MODULE module and spam/B-FUNCTION ./I-FUNCTION fry/I-FUNCTION , too .',
        'The class Egg/B-CLASS raises ValueError/B-CLASS in ` boil/B-FUNCTION ` , but a list is long .',
        'The Egg/B-CLASS class and its boil/B-FUNCTION ( ) method do cook .',
        'Copy and open are plain words here .',
        'Call boil_over/B-FUNCTION ( ) or spam/B-CLASS ./I-CLASS deep/I-CLASS ./I-CLASS fry/I-CLASS ( x ) now .',
    ]
    assert tagged == expected


def test_tags_begin_before_they_go_on(small_stdlib):
    for row in every(entities.rows(small_stdlib)):
        assert len(row['words']) == len(row['tags'])
        assert set(row['tags']) <= set(entities.LABELS)
        for before, tag in zip(['O', *row['tags']], row['tags'], strict=False):
            assert not tag.startswith('I-') or before[1:] == tag[1:]


@pytest.mark.parametrize('name', ['choices', 'summaries', 'preferences', 'dialogue', 'questions', 'entities'])
def test_a_library_without_docstrings_gives_nothing(stdlib_root, name):
    assert every(made.SETS[name](stdlib_root)) == []
