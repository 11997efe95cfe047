"""Does a text that comes id by id read as the whole does, end where it should, and show nothing too early?"""

import numpy as np
import pytest

from gpt_jax.data import tokenizer
from gpt_jax.generate.text import Reader, held_back

BYTES = tokenizer.make('bytes', lambda: [])


def read(ids, stops=(), tokens=BYTES, prompt='Say: '):
    """(pieces as they came, the reader) for ids given one by one."""
    reader = Reader(tokens.decode, tokens.encode(prompt).tolist(), stops)
    pieces = []
    for id_ in ids:
        pieces.append(reader.add(int(id_)))
        if reader.stopped:
            break
    pieces.append(reader.close())
    return pieces, reader


@pytest.mark.parametrize('text', ['plain', 'naïve — €5 👩‍👩‍👧 日本', '', '\ufffd real', 'end in half €'])
def test_pieces_make_the_whole_and_never_half_a_character(text):
    pieces, reader = read(BYTES.encode(text))
    assert ''.join(pieces) == reader.text == text
    assert all('\ufffd' not in piece for piece in pieces) or '\ufffd' in text


@pytest.mark.parametrize(
    'data', [b'\xe2\x82', b'a\xffb', b'\x80\x80\x80ok', b'\xf0\x9f\x98', bytes(range(128, 255)) + b'.']
)
def test_bytes_that_are_no_text_read_as_the_decoder_reads_them(data):
    pieces, reader = read(data)
    assert ''.join(pieces) == reader.text == BYTES.decode(list(data))


def test_random_ids_of_a_trained_bpe_read_as_the_decoder_reads_them():
    bpe = tokenizer.train(['naïve café — 日本語 👩 and plain words too, words and words'] * 20, 320)
    rng = np.random.default_rng(0)
    for _ in range(50):
        prompt, ids = 'words', rng.integers(0, bpe.vocab_size, 30)
        pieces, reader = read(ids, tokens=bpe, prompt=prompt)
        assert ''.join(pieces) == reader.text == bpe.decode([*bpe.encode(prompt), *ids])[len(prompt) :]


def test_a_stop_string_ends_the_text_and_no_part_of_it_is_shown():
    pieces, reader = read(b'one END two', stops=('END',))
    assert reader.stopped
    assert ''.join(pieces) == reader.text == 'one '
    assert pieces[:5] == ['o', 'n', 'e', ' ', '']


def test_what_might_have_been_a_stop_string_is_shown_once_it_is_not():
    pieces, reader = read(b'EN EEND', stops=('END', 'EEX'))
    assert pieces[:4] == ['', '', 'EN ', '']
    assert reader.text == 'EN E'


def test_what_was_held_back_comes_at_the_close():
    pieces, reader = read(b'the EN', stops=('END',))
    assert pieces[-1] == 'EN'
    assert reader.text == 'the EN'
    assert not reader.stopped


def test_stop_strings_over_token_boundaries_and_in_characters():
    ids = BYTES.encode('prix: 5 € net')
    assert read(ids, stops=('€ n',))[1].text == 'prix: 5 '
    assert read(ids, stops=('net', '€'))[1].text == 'prix: 5 '


def test_a_stop_string_in_the_prompt_does_not_count():
    assert read(b'abc', stops=('Say', ': a'))[1].text == 'abc'


def test_held_back():
    assert held_back('abcab', ('abd', 'x')) == 2
    assert held_back('abcabd', ('abd',)) == 0
    assert held_back('', ('abd',)) == 0
    assert held_back('aaa', ('aaaa', 'ab')) == 3
