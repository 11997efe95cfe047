"""Token classification datasets: names in docstrings, and semantic roles."""

import re
from pathlib import Path

from gpt_jax.tasks.synthetic import tagging

NO_STDLIB = Path()


def all_rows(splits):
    return [row for rows in splits.values() for row in rows]


def check_tags(row, known):
    """Asserts that every I- tag follows a tag of its kind."""
    assert len(row['words']) == len(row['tags'])
    assert set(row['tags']) <= set(known)
    for before, tag in zip(['O', *row['tags']], row['tags'], strict=False):
        assert not tag.startswith('I-') or before[1:] == tag[1:]


SOURCE = '''"""Use the spam module and spam.fry, too. The class Egg raises ValueError in `boil`,
but a list is long."""
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
    sentences = []
    for row in all_rows(tagging.make_entities_rows(tmp_path)):
        pairs = zip(row['words'], row['tags'], strict=True)
        sentences.append(' '.join(word if tag == 'O' else f'{word}/{tag}' for word, tag in pairs))
    assert sentences == [
        'Use the spam/B-MODULE module and spam/B-FUNCTION ./I-FUNCTION fry/I-FUNCTION , too .',
        'The class Egg/B-CLASS raises ValueError/B-CLASS in ` boil/B-FUNCTION ` , '
        'but a list is long .',
        'The Egg/B-CLASS class and its boil/B-FUNCTION ( ) method do cook .',
        'Copy and open are plain words here .',
        'Call boil_over/B-FUNCTION ( ) or '
        'spam/B-CLASS ./I-CLASS deep/I-CLASS ./I-CLASS fry/I-CLASS ( x ) now .',
    ]


def test_entity_tags_are_well_formed(small_stdlib):
    for row in all_rows(tagging.make_entities_rows(small_stdlib)):
        check_tags(row, tagging.ENTITY_TAGS)


def test_roles():
    tags_of_by, kinds = set(), set()
    for row in all_rows(tagging.make_roles_rows(NO_STDLIB)):
        words, tags = row['words'], row['tags']
        check_tags(row, tagging.ROLE_TAGS)
        assert sorted(tag for tag in tags if tag in ('B-ACTION', 'B-PATIENT')) == [
            'B-ACTION',
            'B-PATIENT',
        ]
        tags_of_by |= {tag for word, tag in zip(words, tags, strict=True) if word.lower() == 'by'}
        kinds |= {tag[2:] for tag in tags} - {''}
        text = ' '.join(words)
        passive = r' was (\w+) by (?!the river|the old gate)(?:the|an?) (\w+)'
        if match := re.search(passive, text):
            assert tags[text[: match.start(2)].count(' ')] == 'I-AGENT'
            assert tags[0] != 'B-AGENT'
    assert kinds == set(tagging.ROLE_KINDS)
    assert tags_of_by == {'O', 'B-PLACE', 'I-AGENT'}
