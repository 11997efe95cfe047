"""Does the cache hold what was encoded, and is a damaged one noticed?"""

import json

import numpy as np
import pytest

from gpt_jax.data import tokenizer, tokens
from gpt_jax.data.text_files import Piece
from gpt_jax.errors import UserError

BYTES = tokenizer.make('bytes', list)
PIECES = [
    ('train', Piece('é', False)),
    ('validation', Piece('b', True)),
    ('train', Piece('', False)),
    ('train', Piece('a', True)),
    ('train', Piece('', True)),
    ('train', Piece('cd', True)),
]


def written(folder, made=BYTES, pieces=PIECES):
    folder.mkdir()
    tokens.write(folder, made, iter(pieces), {'for': 'test'}, None)
    return json.loads((folder / 'meta.json').read_text())


def test_what_is_written_is_read(tmp_path, monkeypatch):
    for pieces_at_once in (1024, 2, 1):
        monkeypatch.setattr(tokens, 'BATCH_PIECES', pieces_at_once)
        folder = tmp_path / str(pieces_at_once)
        meta = written(folder)
        train = tokens.read_split(folder, 'train', meta)
        assert train.ids.tolist() == [0xC3, 0xA9, 0x61, 255, 0x63, 0x64, 255]
        assert train.starts.tolist() == [0, 4]
        assert (train.bytes, len(train), train.bytes_per_token) == (5, 7, 5 / 7)
        assert (train.ids.dtype, train.starts.dtype) == (np.uint16, np.int64)
        assert tokens.read_split(folder, 'validation', meta).ids.tolist() == [0x62, 255]
        counts = {'tokens': 7, 'documents': 2, 'bytes': 5, 'empty_documents': 1}
        assert meta['splits']['train'] == counts
        assert (meta['vocab_size'], meta['end_of_document'], meta['about']) == (256, 255, {'for': 'test'})
        assert (folder / 'tokenizer.json').read_bytes() == BYTES.content
        assert tokens.fault(folder) == ''
        tokens.verify(folder)


def test_fingerprint_is_of_the_content(tmp_path):
    first = written(tmp_path / 'a')['fingerprint']
    assert len(first) == 64
    assert written(tmp_path / 'b')['fingerprint'] == first
    other_ids = [*PIECES[:-1], ('train', Piece('ce', True))]
    other_starts = [*PIECES[:-1], ('train', Piece('cd', False)), ('train', Piece('', True))]
    other_split = [*PIECES[:-1], ('test', Piece('cd', True))]
    assert written(tmp_path / 'c', pieces=other_ids)['fingerprint'] != first
    assert written(tmp_path / 'd', pieces=other_starts)['fingerprint'] == first  # the same documents in other pieces
    assert written(tmp_path / 'e', pieces=other_split)['fingerprint'] != first
    other = tokenizer.Tokenizer(b'other', 'x', 256, 255, BYTES.encode_batch, BYTES.decode)
    assert written(tmp_path / 'f', other)['fingerprint'] != first


@pytest.mark.parametrize(('vocab_size', 'dtype'), [(65_536, 'uint16'), (65_537, 'uint32')])
def test_width_follows_the_vocabulary(tmp_path, vocab_size, dtype):
    top = vocab_size - 1
    made = tokenizer.Tokenizer(b'', 'x', vocab_size, top, lambda texts: [np.array([top - 1])] * len(texts), str)
    meta = written(tmp_path / 'a', made, [('train', Piece('a', True))])
    assert meta['dtype'] == dtype
    assert tokens.read_split(tmp_path / 'a', 'train', meta).ids.tolist() == [top - 1, top]


@pytest.mark.parametrize(
    ('given', 'message'), [(7, 'gave id 7 outside its vocabulary of 7'), (6, 'made its end-of-document id 6 out of')]
)
def test_wrong_ids_are_refused(tmp_path, given, message):
    made = tokenizer.Tokenizer(b'', 'x', 7, 6, lambda texts: [np.array([1, given])] * len(texts), str)
    with pytest.raises(UserError, match=rf'data\.tokenizer: {message}'):
        written(tmp_path / 'a', made)
    assert tokens.fault(tmp_path / 'a') == 'meta.json is missing'


def test_documents_that_cannot_be_ended(tmp_path):
    endless = tokenizer.Tokenizer(b'', 'x', 256, None, BYTES.encode_batch, BYTES.decode)
    single = [('train', Piece('a', False)), ('validation', Piece('c', True)), ('train', Piece('b', True)),
              ('train', Piece('', True))]  # fmt: skip
    meta = written(tmp_path / 'a', endless, single)
    assert tokens.read_split(tmp_path / 'a', 'train', meta).ids.tolist() == [0x61, 0x62]
    assert meta['end_of_document'] is None
    with pytest.raises(UserError, match=r'data\.tokenizer: has no token that ends a document .*<\|endoftext\|>'):
        written(tmp_path / 'b', endless, [*single, ('train', Piece('d', True))])


def test_damage_is_noticed(tmp_path):
    folder = tmp_path / 'a'
    written(folder)
    ids = (folder / 'train.ids').read_bytes()
    (folder / 'train.ids').write_bytes(ids[:-2])
    assert tokens.fault(folder) == 'train.ids has 12 bytes instead of 14'
    (folder / 'train.ids').write_bytes(bytes([ids[0] ^ 1]) + ids[1:])
    assert tokens.fault(folder) == ''
    with pytest.raises(UserError, match=r'a: train\.ids is not what was written'):
        tokens.verify(folder)
    (folder / 'train.ids').unlink()
    assert tokens.fault(folder) == 'train.ids is missing'
    for content in ('', '[]', '{}', '{"files": {}}', 'null'):
        (folder / 'meta.json').write_text(content)
        assert tokens.fault(folder) == 'meta.json cannot be read'
    (folder / 'meta.json').write_text('{"files": {}, "format": 0}')
    assert tokens.fault(folder) == 'meta.json is of another format'
    assert tokens.fault(tmp_path / 'none') == 'meta.json is missing'


def test_a_document_that_the_tokenizer_has_no_ids_for_is_refused(tmp_path):
    import tokenizers

    made = tokenizer._from_content(tokenizers.Tokenizer(tokenizers.models.BPE({'a': 0}, [])).to_str().encode(), '')
    with pytest.raises(UserError, match=r"^data\.tokenizer: the tokenizer has no id for 'b', at character 1"):
        written(tmp_path / 'a', made, [('train', Piece('a', True)), ('train', Piece('ab', True))])
