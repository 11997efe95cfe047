"""Incremental detokenization and stop strings."""

import numpy as np
import pytest

from gpt_jax.data import tokenizer
from gpt_jax.inference.text_stream import DetokenizerStream, count_held_back

BYTES = tokenizer.make_tokenizer('bytes', lambda: [])


def read(ids, stops=(), tokens=BYTES, prompt='Say: '):
    """(emitted pieces, the stream) for ids added one by one."""
    stream = DetokenizerStream(tokens.decode, tokens.encode(prompt).tolist(), stops)
    pieces = []
    for id_ in ids:
        pieces.append(stream.add(int(id_)))
        if stream.stopped:
            break
    pieces.append(stream.close())
    return pieces, stream


@pytest.mark.parametrize(
    'text', ['plain', 'naïve — €5 👩‍👩‍👧 日本', '', '\ufffd real', 'end in half €']
)
def test_pieces_add_up_and_never_split_a_character(text):
    pieces, stream = read(BYTES.encode(text))
    assert ''.join(pieces) == stream.text == text
    assert all('\ufffd' not in piece for piece in pieces) or '\ufffd' in text


@pytest.mark.parametrize(
    'data',
    [b'\xe2\x82', b'a\xffb', b'\x80\x80\x80ok', b'\xf0\x9f\x98', bytes(range(128, 255)) + b'.'],
)
def test_invalid_utf8_is_decoded_like_the_whole(data):
    pieces, stream = read(data)
    assert ''.join(pieces) == stream.text == BYTES.decode(list(data))


def test_random_bpe_ids_are_decoded_like_the_whole():
    bpe = tokenizer.train_bpe(
        ['naïve café — 日本語 👩 and plain words too, words and words'] * 20, 320
    )
    rng = np.random.default_rng(0)
    for _ in range(50):
        prompt, ids = 'words', rng.integers(0, bpe.vocab_size, 30)
        pieces, stream = read(ids, tokens=bpe, prompt=prompt)
        expected = bpe.decode([*bpe.encode(prompt), *ids])[len(prompt) :]
        assert ''.join(pieces) == stream.text == expected


def test_stop_string_ends_the_text_and_is_not_emitted():
    pieces, stream = read(b'one END two', stops=('END',))
    assert stream.stopped
    assert ''.join(pieces) == stream.text == 'one '
    assert pieces[:5] == ['o', 'n', 'e', ' ', '']


def test_partial_stop_string_is_emitted_once_it_is_ruled_out():
    pieces, stream = read(b'EN EEND', stops=('END', 'EEX'))
    assert pieces[:4] == ['', '', 'EN ', '']
    assert stream.text == 'EN E'


def test_held_back_text_is_emitted_at_the_end():
    pieces, stream = read(b'the EN', stops=('END',))
    assert pieces[-1] == 'EN'
    assert stream.text == 'the EN'
    assert not stream.stopped


def test_stop_strings_across_tokens_and_within_characters():
    ids = BYTES.encode('prix: 5 € net')
    assert read(ids, stops=('€ n',))[1].text == 'prix: 5 '
    assert read(ids, stops=('net', '€'))[1].text == 'prix: 5 '


def test_stop_string_in_the_prompt_is_ignored():
    assert read(b'abc', stops=('Say', ': a'))[1].text == 'abc'


def test_count_held_back():
    assert count_held_back('abcab', ('abd', 'x')) == 2
    assert count_held_back('abcabd', ('abd',)) == 0
    assert count_held_back('', ('abd',)) == 0
    assert count_held_back('aaa', ('aaaa', 'ab')) == 3
