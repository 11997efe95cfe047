"""Does text come back from its ids, and never turn into the end of a document?"""

import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data import text_files, tokenizer
from gpt_jax.errors import UserError

TEXT = ["The cat sat on the mat, and the other cat didn't.\n", 'def f(x):\n    return x + 1  # é\n'] * 20
ANY = st.text(st.characters(exclude_categories=['Cs']), max_size=80)


@pytest.fixture(scope='module')
def bpe():
    return tokenizer.train(TEXT, 290)


@settings(deadline=None)
@given(text=ANY)
def test_bytes_round_trip(text):
    made = tokenizer.make('bytes', list)
    ids = made.encode(text)
    assert bytes(ids.astype(np.uint8)) == text.encode()
    assert made.end_of_document not in ids
    assert made.vocab_size == 256
    assert made.decode([*ids, 255]) == text


@settings(deadline=None)
@given(text=ANY)
def test_bpe_round_trip(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert all(i < bpe.vocab_size and i != bpe.end_of_document for i in ids)


def test_broken_bytes_do_not_raise():
    assert tokenizer.make('bytes', list).decode([0xE2, 0x82]) == '\ufffd'


def test_bpe_compresses_and_is_of_the_asked_size(bpe):
    assert bpe.vocab_size == 290
    assert len(bpe.encode(TEXT[0])) < len(TEXT[0]) / 2


def test_special_tokens_in_text_stay_text(bpe):
    text = 'a<|endoftext|>b'
    ids = bpe.encode(text)
    assert bpe.end_of_document not in ids
    assert bpe.decode(ids) == text
    assert bpe.decode([*ids, bpe.end_of_document]) == text


def test_training_is_the_same_in_another_process(bpe):
    code = (
        'import sys; from gpt_jax.data import tokenizer;'
        f'print(tokenizer.train({TEXT!r}, 290).fingerprint)'  # another process, another hash seed
    )
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == bpe.fingerprint
    assert tokenizer.train(TEXT[:1], 290).fingerprint != bpe.fingerprint


def test_training_reads_no_more_than_its_share(monkeypatch):
    monkeypatch.setattr(tokenizer, 'TRAINING_CHARACTERS', 60)
    few = tokenizer.train(['aaaa ' * 10, 'bbbb ' * 10], 400)
    assert few.fingerprint == tokenizer.train(['aaaa ' * 10, 'bbbb ' * 2], 400).fingerprint


def test_save_and_load(bpe, tmp_path):
    for made in (bpe, tokenizer.make('bytes', list)):
        tokenizer.save(made, tmp_path / 'tokenizer.json')
        again = tokenizer.load(tmp_path / 'tokenizer.json')
        assert (again.fingerprint, again.vocab_size, again.end_of_document) == (
            made.fingerprint,
            made.vocab_size,
            made.end_of_document,
        )
        assert list(again.encode('the cat é')) == list(made.encode('the cat é'))


def test_given_json_with_another_end_truncation_and_gaps(bpe, tmp_path):
    content = json.loads(bpe.content)
    content['added_tokens'][0]['content'] = '</s>'
    content['model']['vocab']['</s>'] = content['model']['vocab'].pop('<|endoftext|>')
    content['added_tokens'].append(content['added_tokens'][0] | {'id': 500, 'content': '<pad>'})
    inner = tokenizers.Tokenizer.from_str(json.dumps(content))
    inner.enable_truncation(3)
    inner.enable_padding(length=99)
    path = tmp_path / 'tokenizer.json'
    inner.save(str(path))
    given_one = tokenizer.make(str(tmp_path), list)
    assert given_one.end_of_document == 0
    assert given_one.vocab_size == max(inner.get_vocab().values()) + 1
    text = 'the cat </s> <pad> sat on the mat'
    assert given_one.decode(given_one.encode(text)) == text
    assert given_one.end_of_document not in given_one.encode(text)


def test_given_vocabulary_and_merges(bpe, tmp_path):
    model = json.loads(bpe.content)['model']
    (tmp_path / 'vocab.json').write_text(json.dumps(model['vocab']))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\n' + '\n'.join(' '.join(pair) for pair in model['merges']))
    made = tokenizer.make(str(tmp_path), list)
    for text in (*TEXT[:2], 'a<|endoftext|>b'):
        assert list(made.encode(text)) == list(bpe.encode(text))
    assert made.end_of_document == bpe.end_of_document


def test_pieces_of_a_large_file_give_the_tokens_of_the_whole(bpe, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, 'PIECE', 40)
    text = ''.join(TEXT)
    (tmp_path / 'a.txt').write_text(text)
    cut = [piece.text for piece in text_files.pieces(tmp_path / 'a.txt', '')]
    assert len(cut) > 20
    assert np.concatenate(bpe.encode_batch(cut)).tolist() == bpe.encode(text).tolist()


def test_bad_tokenizers_say_so(tmp_path):
    with pytest.raises(UserError, match=r'data\.tokenizer: .*gone is no file or folder'):
        tokenizer.make(str(tmp_path / 'gone'), list)
    with pytest.raises(UserError, match=r'data\.tokenizer: .* holds neither tokenizer\.json nor vocab\.json'):
        tokenizer.make(str(tmp_path), list)
    (tmp_path / 'broken.json').write_text('{}')
    with pytest.raises(UserError, match=r'data\.tokenizer: .*broken\.json is no tokenizer\.json'):
        tokenizer.make(str(tmp_path / 'broken.json'), list)


def test_a_vocabulary_without_a_token_is_none(tmp_path):
    (tmp_path / 'vocab.json').write_text('{}')
    (tmp_path / 'merges.txt').write_text('')
    with pytest.raises(UserError, match=r'data\.tokenizer: .* has no token in its vocabulary'):
        tokenizer.make(str(tmp_path), lambda: ())


def test_a_tokenizer_need_not_end_documents(tmp_path, bpe):
    content = json.loads(bpe.content)
    content['added_tokens'] = []
    content['model']['vocab']['other'] = content['model']['vocab'].pop('<|endoftext|>')
    (tmp_path / 'endless.json').write_text(json.dumps(content))
    made = tokenizer.make(str(tmp_path / 'endless.json'), list)
    assert made.end_of_document is None
    assert made.decode(made.encode('the cat <|endoftext|>')) == 'the cat <|endoftext|>'


WORDS = {'<unk>': 0, 't': 1, 'h': 2, 'e': 3, 'e</w>': 4, 'th': 5, 'the</w>': 6, 'c': 7, 'a': 8, 't</w>': 9, '.</w>': 10}


@pytest.fixture
def first_gpt(tmp_path):
    """A folder like GPT-1's."""
    (tmp_path / 'vocab.json').write_text(json.dumps(WORDS))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\nt h\nth e</w>\n')
    return tmp_path


def test_the_first_gpts_words_have_no_case_and_no_accents(first_gpt):
    made = tokenizer.make(str(first_gpt), list)
    assert made.encode('Thé  CAT.\n').tolist() == [6, 7, 8, 9, 10]
    assert made.encode('the?').tolist() == [6, 0]  # what it has no token for
    assert made.decode([6, 7, 8, 9, 10]) == 'the cat .'
    assert (made.end_of_document, made.vocab_size) == (None, 11)


def test_the_first_gpts_ids_are_those_of_transformers(first_gpt):
    transformers = pytest.importorskip('transformers', reason='compares with transformers')
    theirs = transformers.OpenAIGPTTokenizer.from_pretrained(first_gpt)
    made = tokenizer.make(str(first_gpt), list)
    for text in ('The cat.', 'hé HE the   t.a\tcat\n', 'the-cat the_cat 的the', '', 'teeth tat, hat'):
        assert made.encode(text).tolist() == theirs(text)['input_ids'], text


def test_gpt2s_ids_are_those_of_transformers(bpe, tmp_path):
    transformers = pytest.importorskip('transformers', reason='compares with transformers')
    model = json.loads(bpe.content)['model']
    (tmp_path / 'vocab.json').write_text(json.dumps(model['vocab']))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\n' + '\n'.join(' '.join(pair) for pair in model['merges']))
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    made = tokenizer.make(str(tmp_path), list)
    for text in (*TEXT[:2], '  two\tspaces \n\n', "isn't 12345 é 的 \U0001f600", ''):
        assert made.encode(text).tolist() == theirs(text)['input_ids'], text
