"""Tests of the token cache: contents, fingerprints, and detection of damage."""

import json

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.data import token_cache, tokenizer
from gpt_jax.data.readers import TextChunk

BYTES = tokenizer.make_tokenizer('bytes', list)
CHUNKS = [
    ('train', TextChunk('é', False)),
    ('validation', TextChunk('b', True)),
    ('train', TextChunk('', False)),
    ('train', TextChunk('a', True)),
    ('train', TextChunk('', True)),
    ('train', TextChunk('cd', True)),
]


def write_cache(folder, encoder=BYTES, chunks=CHUNKS):
    folder.mkdir()
    token_cache.write_cache(folder, encoder, iter(chunks), {'for': 'test'}, None)
    return json.loads((folder / 'meta.json').read_text())


def test_round_trip(tmp_path, monkeypatch):
    for batch_size in (1024, 2, 1):
        monkeypatch.setattr(token_cache, 'MAX_BATCH_CHUNKS', batch_size)
        folder = tmp_path / str(batch_size)
        meta = write_cache(folder)
        train = token_cache.read_split(folder, 'train', meta)
        assert train.ids.tolist() == [0xC3, 0xA9, 0x61, 255, 0x63, 0x64, 255]
        assert train.document_starts.tolist() == [0, 4]
        assert (train.text_bytes, len(train)) == (5, 7)
        assert (train.ids.dtype, train.document_starts.dtype) == (np.uint16, np.int64)
        assert token_cache.read_split(folder, 'validation', meta).ids.tolist() == [0x62, 255]
        counts = {'tokens': 7, 'documents': 2, 'bytes': 5, 'empty_documents': 1}
        assert meta['splits']['train'] == counts
        assert (meta['vocab_size'], meta['end_of_document'], meta['about']) == (
            256,
            255,
            {'for': 'test'},
        )
        assert (folder / 'tokenizer.json').read_bytes() == BYTES.content
        assert token_cache.find_fault(folder) == ''


def test_fingerprint_depends_on_the_content_only(tmp_path):
    first = write_cache(tmp_path / 'a')['fingerprint']
    assert len(first) == 64
    assert write_cache(tmp_path / 'b')['fingerprint'] == first
    other_ids = [*CHUNKS[:-1], ('train', TextChunk('ce', True))]
    other_chunks = [*CHUNKS[:-1], ('train', TextChunk('cd', False)), ('train', TextChunk('', True))]
    other_split = [*CHUNKS[:-1], ('test', TextChunk('cd', True))]
    assert write_cache(tmp_path / 'c', chunks=other_ids)['fingerprint'] != first
    # The same documents in other chunks.
    assert write_cache(tmp_path / 'd', chunks=other_chunks)['fingerprint'] == first
    assert write_cache(tmp_path / 'e', chunks=other_split)['fingerprint'] != first
    other = tokenizer.Tokenizer(b'other', 'x', 256, 255, BYTES.encode_batch, BYTES.decode)
    assert write_cache(tmp_path / 'f', other)['fingerprint'] != first


@pytest.mark.parametrize(('vocab_size', 'dtype'), [(65_536, 'uint16'), (65_537, 'uint32')])
def test_dtype_follows_the_vocabulary_size(tmp_path, vocab_size, dtype):
    top = vocab_size - 1
    encoder = tokenizer.Tokenizer(
        b'', 'x', vocab_size, top, lambda texts: [np.array([top - 1])] * len(texts), str
    )
    meta = write_cache(tmp_path / 'a', encoder, [('train', TextChunk('a', True))])
    assert meta['dtype'] == dtype
    assert token_cache.read_split(tmp_path / 'a', 'train', meta).ids.tolist() == [top - 1, top]


@pytest.mark.parametrize(
    ('token_id', 'message'),
    [
        (7, 'must give ids below its vocabulary size of 7, got 7'),
        (6, 'must not encode text as its end-of-document id 6'),
    ],
)
def test_invalid_ids_are_rejected(tmp_path, token_id, message):
    encoder = tokenizer.Tokenizer(
        b'', 'x', 7, 6, lambda texts: [np.array([1, token_id])] * len(texts), str
    )
    with pytest.raises(UserError, match=rf'data\.tokenizer: {message}'):
        write_cache(tmp_path / 'a', encoder)
    assert token_cache.find_fault(tmp_path / 'a') == 'meta.json is missing'


def test_several_documents_need_an_end_token(tmp_path):
    endless = tokenizer.Tokenizer(b'', 'x', 256, None, BYTES.encode_batch, BYTES.decode)
    single = [
        ('train', TextChunk('a', False)),
        ('validation', TextChunk('c', True)),
        ('train', TextChunk('b', True)),
        ('train', TextChunk('', True)),
    ]
    meta = write_cache(tmp_path / 'a', endless, single)
    assert token_cache.read_split(tmp_path / 'a', 'train', meta).ids.tolist() == [0x61, 0x62]
    assert meta['end_of_document'] is None
    with pytest.raises(
        UserError, match=r'data\.tokenizer: must have an end-of-document token .*<\|endoftext\|>'
    ):
        write_cache(tmp_path / 'b', endless, [*single, ('train', TextChunk('d', True))])


def test_damage_is_detected(tmp_path):
    folder = tmp_path / 'a'
    write_cache(folder)
    ids = (folder / 'train.ids').read_bytes()
    (folder / 'train.ids').write_bytes(ids[:-2])
    assert token_cache.find_fault(folder) == 'train.ids has 12 bytes instead of 14'
    (folder / 'train.ids').write_bytes(bytes([ids[0] ^ 1]) + ids[1:])
    assert token_cache.find_fault(folder) == ''  # only sizes are compared
    (folder / 'train.ids').unlink()
    assert token_cache.find_fault(folder) == 'train.ids is missing'
    for content in ('', '[]', '{}', '{"files": {}}', 'null'):
        (folder / 'meta.json').write_text(content)
        assert token_cache.find_fault(folder) == 'meta.json cannot be read'
    (folder / 'meta.json').write_text('{"files": {}, "format": 0}')
    assert token_cache.find_fault(folder) == 'meta.json has another format'
    assert token_cache.find_fault(tmp_path / 'none') == 'meta.json is missing'


def test_character_without_an_id_is_rejected(tmp_path):
    import tokenizers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({'a': 0}, []))
    encoder = tokenizer.parse_tokenizer_json(bpe.to_str().encode(), '')
    chunks = [('train', TextChunk('a', True)), ('train', TextChunk('ab', True))]
    message = r"^data\.tokenizer: the tokenizer has no id for 'b', at character 1"
    with pytest.raises(UserError, match=message):
        write_cache(tmp_path / 'a', encoder, chunks)
