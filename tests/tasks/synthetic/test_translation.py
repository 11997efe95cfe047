"""Translation datasets: agreement in the invented language; messages of gettext catalogues."""

import re
import struct
from pathlib import Path

import pytest

from gpt_jax.tasks.synthetic import translation
from gpt_jax.tasks.synthetic.translation import ADJECTIVES, NOUNS, VERBS

NO_STDLIB = Path()


def all_rows(splits):
    return [row for rows in splits.values() for row in rows]


def test_endings_of_the_invented_language_agree():
    """Parses every sentence of the invented language and compares the endings."""
    genders = {noun.stem: noun.gender for noun in NOUNS}
    stems = '|'.join(genders)
    noun = re.compile(rf'({stems})([ao])(j?)(n?)(ta)?')
    adjective = re.compile(rf'({"|".join(ADJECTIVES.values())})([ao])(j?)(n?)')
    verb = re.compile(rf'({"|".join(stem for *_, stem in VERBS)})([ei])(s?)')
    for row in all_rows(translation.make_grammar_rows(NO_STDLIB)):
        words = row['target'].rstrip('.?').split()
        assert row['target'].endswith('?') == row['source'].endswith('?') == (words[-1] == 'ka')
        words = words[:-1] if words[-1] == 'ka' else words
        verb_match = verb.fullmatch(words.pop())
        is_negated = words[-1] == 'ne'
        words = words[:-1] if is_negated else words
        assert is_negated == (' not ' in row['source'])
        words = words[1:] if words[0] in translation.TIMES.values() else words
        phrases, cases = [], []
        for word in words:
            if match := noun.fullmatch(word):
                assert match[2] == genders[match[1]]
                phrases.append(match.groups()[1:4])
                cases.append(match[4])
            elif match := adjective.fullmatch(word):
                assert match.groups()[1:] == phrases[-1]
            else:
                assert word in translation.PLACES.values()
        assert cases.count('n') == 1  # one object, after the subject
        assert cases[0] == ''
        assert bool(verb_match[3]) == bool(phrases[0][1])  # the verb agrees with its subject
    assert {
        'source': 'Did the letter near the letter love the old stones?',
        'target': 'zemota apu zemota pirtajnta vetajn ami ka?',
    } in all_rows(translation.make_grammar_rows(NO_STDLIB))


def write_catalogue(path, pairs):
    """Writes a gettext catalogue; see 'The Format of GNU MO Files' in its manual."""
    pairs = sorted({'': 'Content-Type: text/plain; charset=UTF-8\n', **pairs}.items())
    heads, texts, at = [[], []], b'', 28 + 16 * len(pairs)
    for side in (0, 1):
        for pair in pairs:
            text = pair[side].encode()
            heads[side] += [len(text), at + len(texts)]
            texts += text + b'\0'
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(
        '<7I', 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 28 + 16 * len(pairs)
    )
    path.write_bytes(head + struct.pack(f'<{4 * len(pairs)}I', *heads[0], *heads[1]) + texts)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    monkeypatch.setattr(translation, 'list_catalogue_folders', lambda: [tmp_path])
    return tmp_path


def test_catalogues_are_read(installed):
    write_catalogue(
        installed / 'de' / 'LC_MESSAGES' / 'a.mo',
        {
            'No such file': 'Keine solche Datei',
            'OK': 'OK',
            'The same': 'The same',
            '%s: %d': '%s: %d',
            'Save': 'Sichern',
            'Two\nlines here': 'Zwei\nZeilen',
            'menu\x04Open it': 'Öffnen bitte',
            'x ' * 200: 'y ' * 200,
        },
    )
    write_catalogue(
        installed / 'de' / 'LC_MESSAGES' / 'b.mo',
        {'No such file': 'Nicht da', 'Good day': 'Guten Tag'},
    )
    (installed / 'de' / 'LC_MESSAGES' / 'c.mo').write_bytes(b'not a catalogue')
    assert translation.read_messages([installed], 'de') == {
        'No such file': 'Keine solche Datei',
        'Good day': 'Guten Tag',
    }
    assert translation.read_messages([installed], 'fr') == {}


def test_installed_messages_are_used_if_there_are_enough(installed, monkeypatch):
    monkeypatch.setattr(translation, 'MIN_MESSAGES', 50)
    monkeypatch.setattr(translation, 'MAX_MESSAGES', 60)
    write_catalogue(
        installed / 'es' / 'LC_MESSAGES' / 'a.mo',
        {f'The number {n}': f'El número {n}' for n in range(80)},
    )
    write_catalogue(installed / 'de' / 'LC_MESSAGES' / 'a.mo', {'The number': 'Die Zahl'})
    splits = translation.make_translation_rows(NO_STDLIB)
    rows = all_rows(splits)
    assert len(rows) == 60
    assert all(splits.values())
    for row in rows:
        assert row['target'] == row['source'].replace('The number', 'El número')
    assert {row['language'] for row in rows} == {'es'}


def test_the_invented_language_is_used_otherwise(installed):
    write_catalogue(installed / 'de' / 'LC_MESSAGES' / 'a.mo', {'The number': 'Die Zahl'})
    splits = translation.make_translation_rows(NO_STDLIB)
    grammar = translation.make_grammar_rows(NO_STDLIB)
    assert {row['language'] for row in all_rows(splits)} == {'made'}
    sources = [row['source'] for row in splits['train']]
    assert sources == [row['source'] for row in grammar['train']]


def test_catalogues_of_the_system_are_read():
    assert Path('/usr/share/locale') in translation.list_catalogue_folders()
