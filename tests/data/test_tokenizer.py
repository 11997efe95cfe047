"""Tests of tokenizers: round trips, training, pretrained files, and text without ids."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from gpt_jax.core import text_files
from gpt_jax.core.errors import UserError
from gpt_jax.data import readers, tokenizer

TEXT = [
    "The cat sat on the mat, and the other cat didn't.\n",
    'def f(x):\n    return x + 1  # é\n',
] * 20
ANY_TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=80)


@pytest.fixture(scope='module')
def bpe():
    return tokenizer.train_bpe(TEXT, 290)


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_bytes_round_trip(text):
    encoder = tokenizer.make_tokenizer('bytes', list)
    ids = encoder.encode(text)
    assert bytes(ids.astype(np.uint8)) == text.encode()
    assert encoder.end_of_document not in ids
    assert encoder.vocab_size == 256
    assert encoder.decode([*ids, 255]) == text


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_bpe_round_trip(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert all(i < bpe.vocab_size and i != bpe.end_of_document for i in ids)


def test_invalid_bytes_decode_without_error():
    assert tokenizer.make_tokenizer('bytes', list).decode([0xE2, 0x82]) == '\ufffd'


def test_bpe_compresses_and_has_the_requested_size(bpe):
    assert bpe.vocab_size == 290
    assert len(bpe.encode(TEXT[0])) < len(TEXT[0]) / 2


def test_special_tokens_in_text_stay_text(bpe):
    text = 'a<|endoftext|>b'
    ids = bpe.encode(text)
    assert bpe.end_of_document not in ids
    assert bpe.decode(ids) == text
    assert bpe.decode([*ids, bpe.end_of_document]) == text


def test_bpe_training_is_deterministic(bpe):
    # Another process has another hash seed.
    code = (
        'import sys; from gpt_jax.data import tokenizer;'
        f'print(tokenizer.train_bpe({TEXT!r}, 290).fingerprint)'
    )
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == bpe.fingerprint
    assert tokenizer.train_bpe(TEXT[:1], 290).fingerprint != bpe.fingerprint


def test_bpe_training_reads_a_limited_text(monkeypatch):
    monkeypatch.setattr(tokenizer, 'MAX_TRAINING_CHARACTERS', 60)
    few = tokenizer.train_bpe(['aaaa ' * 10, 'bbbb ' * 10], 400)
    assert few.fingerprint == tokenizer.train_bpe(['aaaa ' * 10, 'bbbb ' * 2], 400).fingerprint


def test_save_and_load(bpe, tmp_path):
    for encoder in (bpe, tokenizer.make_tokenizer('bytes', list)):
        tokenizer.save_tokenizer(encoder, tmp_path)
        again = tokenizer.load_tokenizer(tmp_path / 'tokenizer.json')
        assert (again.fingerprint, again.vocab_size, again.end_of_document) == (
            encoder.fingerprint,
            encoder.vocab_size,
            encoder.end_of_document,
        )
        assert list(again.encode('the cat é')) == list(encoder.encode('the cat é'))


def test_pretrained_json_with_another_end_truncation_and_gaps(bpe, tmp_path):
    content = json.loads(bpe.content)
    content['added_tokens'][0]['content'] = '</s>'
    content['model']['vocab']['</s>'] = content['model']['vocab'].pop('<|endoftext|>')
    content['added_tokens'].append(content['added_tokens'][0] | {'id': 500, 'content': '<pad>'})
    inner = tokenizers.Tokenizer.from_str(json.dumps(content))
    inner.enable_truncation(3)
    inner.enable_padding(length=99)
    path = tmp_path / 'tokenizer.json'
    inner.save(str(path))
    pretrained = tokenizer.make_tokenizer(str(tmp_path), list)
    assert pretrained.end_of_document == 0
    assert pretrained.vocab_size == max(inner.get_vocab().values()) + 1
    text = 'the cat </s> <pad> sat on the mat'
    assert pretrained.decode(pretrained.encode(text)) == text
    assert pretrained.end_of_document not in pretrained.encode(text)


def test_pretrained_vocabulary_and_merges(bpe, tmp_path):
    model = json.loads(bpe.content)['model']
    (tmp_path / 'vocab.json').write_text(json.dumps(model['vocab']))
    (tmp_path / 'merges.txt').write_text(
        '#version: 0.2\n' + '\n'.join(' '.join(pair) for pair in model['merges'])
    )
    encoder = tokenizer.make_tokenizer(str(tmp_path), list)
    for text in (*TEXT[:2], 'a<|endoftext|>b'):
        assert list(encoder.encode(text)) == list(bpe.encode(text))
    assert encoder.end_of_document == bpe.end_of_document


def test_chunks_of_a_large_file_give_the_tokens_of_the_whole(bpe, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, 'CHUNK_BYTES', 40)
    text = ''.join(TEXT)
    (tmp_path / 'a.txt').write_text(text)
    chunks = [chunk.text for chunk in readers.read_chunks(tmp_path / 'a.txt', '')]
    assert len(chunks) > 20
    assert np.concatenate(bpe.encode_batch(chunks)).tolist() == bpe.encode(text).tolist()


def test_invalid_tokenizers_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"data\.tokenizer: must be 'bytes', .* got .*gone$"):
        tokenizer.make_tokenizer(str(tmp_path / 'gone'), list)
    with pytest.raises(
        UserError, match=r'data\.tokenizer: .* must contain tokenizer\.json, or vocab\.json'
    ):
        tokenizer.make_tokenizer(str(tmp_path), list)
    (tmp_path / 'broken.json').write_text('{}')
    with pytest.raises(
        UserError, match=r'data\.tokenizer: .*broken\.json is not a tokenizer\.json'
    ):
        tokenizer.make_tokenizer(str(tmp_path / 'broken.json'), list)


def test_the_command_that_converts_other_vocabularies_is_named(tmp_path):
    (tmp_path / 'tokenizer.model').write_bytes(b'\n\x0e')
    for path in (tmp_path, tmp_path / 'tokenizer.model'):
        with pytest.raises(UserError) as error:
            tokenizer.make_tokenizer(str(path), list)
        assert f"T.from_pretrained('{tmp_path}').save_pretrained('{tmp_path}')" in str(error.value)


def test_empty_vocabulary_is_rejected(tmp_path):
    (tmp_path / 'vocab.json').write_text('{}')
    (tmp_path / 'merges.txt').write_text('')
    with pytest.raises(UserError, match=r'data\.tokenizer: .* must have tokens in its vocabulary'):
        tokenizer.make_tokenizer(str(tmp_path), lambda: ())


def test_tokenizer_without_end_of_document(tmp_path, bpe):
    content = json.loads(bpe.content)
    content['added_tokens'] = []
    content['model']['vocab']['other'] = content['model']['vocab'].pop('<|endoftext|>')
    (tmp_path / 'endless.json').write_text(json.dumps(content))
    encoder = tokenizer.make_tokenizer(str(tmp_path / 'endless.json'), list)
    assert encoder.end_of_document is None
    assert encoder.decode(encoder.encode('the cat <|endoftext|>')) == 'the cat <|endoftext|>'


GPT1_VOCABULARY = {
    '<unk>': 0,
    't': 1,
    'h': 2,
    'e': 3,
    'e</w>': 4,
    'th': 5,
    'the</w>': 6,
    'c': 7,
    'a': 8,
    't</w>': 9,
    '.</w>': 10,
}


@pytest.fixture
def gpt1_folder(tmp_path):
    """A folder with the files of GPT-1's tokenizer."""
    (tmp_path / 'vocab.json').write_text(json.dumps(GPT1_VOCABULARY))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\nt h\nth e</w>\n')
    return tmp_path


def test_gpt1_drops_case_and_accents(gpt1_folder):
    encoder = tokenizer.make_tokenizer(str(gpt1_folder), list)
    assert encoder.encode('Thé  CAT.\n').tolist() == [6, 7, 8, 9, 10]
    assert encoder.encode('the?').tolist() == [6, 0]  # unknown
    assert encoder.decode([6, 7, 8, 9, 10]) == 'the cat .'
    assert (encoder.end_of_document, encoder.vocab_size) == (None, 11)


def test_gpt1_ids_equal_transformers(gpt1_folder):
    transformers = pytest.importorskip('transformers', reason='compares with transformers')
    theirs = transformers.OpenAIGPTTokenizer.from_pretrained(gpt1_folder)
    encoder = tokenizer.make_tokenizer(str(gpt1_folder), list)
    for text in (
        'The cat.',
        'hé HE the   t.a\tcat\n',
        'the-cat the_cat 的the',
        '',
        'teeth tat, hat',
    ):
        assert encoder.encode(text).tolist() == theirs(text)['input_ids'], text


def test_gpt2_ids_equal_transformers(bpe, tmp_path):
    transformers = pytest.importorskip('transformers', reason='compares with transformers')
    model = json.loads(bpe.content)['model']
    (tmp_path / 'vocab.json').write_text(json.dumps(model['vocab']))
    (tmp_path / 'merges.txt').write_text(
        '#version: 0.2\n' + '\n'.join(' '.join(pair) for pair in model['merges'])
    )
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    encoder = tokenizer.make_tokenizer(str(tmp_path), list)
    for text in (*TEXT[:2], '  two\tspaces \n\n', "isn't 12345 é 的 \U0001f600", ''):
        assert encoder.encode(text).tolist() == theirs(text)['input_ids'], text


AB = {'a': 0, 'b': 1}


def make(model, **components):
    inner = tokenizers.Tokenizer(model)
    for name, component in components.items():
        setattr(inner, name, component)
    return tokenizer.parse_tokenizer_json(inner.to_str().encode(), 'here')


def byte_level_bpe():
    """A BPE with one of the two bytes of é, and offsets that a post-processor shifts."""
    return make(
        models.BPE(AB | {'Ã': 2, 'Ġ': 3}, []),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        post_processor=processors.ByteLevel(trim_offsets=True),
    )


def unigram_with_bytes():
    """A unigram model whose byte tokens are unused, because it has no unknown token."""
    byte_tokens = [(f'<0x{byte:02X}>', -9.0) for byte in range(200)]
    return make(
        models.Unigram([('a', -1.0), ('b', -2.0), *byte_tokens], unk_id=None, byte_fallback=True)
    )


@pytest.mark.parametrize(
    ('make_model', 'text', 'character', 'offset'),
    [
        (lambda: make(models.BPE(AB, [])), 'azzyza', 'z', 1),
        (lambda: make(models.BPE(AB, [])), 'ab \nc', ' ', 2),
        (lambda: make(models.BPE(AB, [], end_of_word_suffix='</w>')), 'ab', 'b', 1),
        (lambda: make(models.BPE(AB, [], unk_token='[none]')), 'baé', 'é', 2),
        (lambda: make(models.BPE(AB | {'<0x41>': 2}, [], byte_fallback=True)), 'aAB', 'B', 2),
        (lambda: make(models.BPE(AB, []), normalizer=normalizers.NFD()), 'aéa', 'é', 1),
        (lambda: make(models.Unigram([('a', -1.0), ('b', -2.0)])), 'abccb', 'cc', 2),
        (unigram_with_bytes, 'abcb', 'c', 2),
        (
            lambda: make(models.WordLevel(AB), pre_tokenizer=pre_tokenizers.Whitespace()),
            'a  cc b',
            'cc',
            3,
        ),
        (
            lambda: make(models.WordPiece(AB), pre_tokenizer=pre_tokenizers.Whitespace()),
            'a c',
            'c',
            2,
        ),
        (byte_level_bpe, 'a bé', 'é', 3),
    ],
)
def test_first_character_without_an_id_is_named(make_model, text, character, offset):
    with pytest.raises(UserError) as raised:
        make_model().encode_batch(['ab'[: not offset], text])
    assert str(raised.value).startswith(
        f'the tokenizer has no id for {character!r}, at character {offset} of the text'
    )
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
    ('make_model', 'text', 'ids'),
    [
        (lambda: make(models.BPE(AB | {'ab': 2}, [('a', 'b')])), 'aab', [0, 2]),
        (lambda: make(models.BPE(AB | {'[none]': 2}, [], unk_token='[none]')), 'acb', [0, 2, 1]),
        (lambda: make(models.BPE(AB | {'<0x41>': 2}, [], byte_fallback=True)), 'aA', [0, 2]),
        (
            lambda: make(models.BPE(AB, []), pre_tokenizer=pre_tokenizers.Whitespace()),
            'a \n b',
            [0, 1],
        ),
        (byte_level_bpe, 'a b', [0, 3, 1]),
    ],
)
def test_full_coverage_keeps_other_ids(make_model, text, ids):
    assert make_model().encode(text).tolist() == ids


def test_other_rejections_are_one_line(monkeypatch):
    monkeypatch.setattr(tokenizer, 'first_unencodable', lambda *_: None)
    with pytest.raises(
        UserError, match=r'^the tokenizer rejects the text \(.*unk_id.*\); change the text'
    ):
        unigram_with_bytes().encode('c')


def test_prefix_ids_of_a_word_model():
    start = processors.TemplateProcessing(single='[S] $A', special_tokens=[('[S]', 1)])
    words = make(models.WordLevel({'other': 0, '[S]': 1}), post_processor=start)
    assert tokenizer.find_prefix_ids(words) == (1,)


def test_vocabulary_and_merges_need_full_coverage(tmp_path):
    (tmp_path / 'vocab.json').write_text(json.dumps(AB))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\n')
    with pytest.raises(UserError, match="no id for 'z', at character 1 of the text"):
        tokenizer.make_tokenizer(str(tmp_path), list).encode('az')
