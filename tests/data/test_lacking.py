"""Is text that a tokenizer would leave out refused, with its first character named, and all other text taken?"""

import json

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from gpt_jax.data import tokenizer
from gpt_jax.errors import UserError

AB = {'a': 0, 'b': 1}


def made(model, **parts):
    inner = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(inner, name, part)
    return tokenizer._from_content(inner.to_str().encode(), 'here')


def of_bytes():
    """With one of the two bytes of é, and places that a post-processor moves."""
    return made(
        models.BPE(AB | {'Ã': 2, 'Ġ': 3}, []),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        post_processor=processors.ByteLevel(trim_offsets=True),
    )


def unigram_of_bytes():
    """With ids for bytes, which are for what is unknown, and none for that: it takes none of them."""
    of_bytes = [(f'<0x{byte:02X}>', -9.0) for byte in range(200)]
    return made(models.Unigram([('a', -1.0), ('b', -2.0), *of_bytes], unk_id=None, byte_fallback=True))


@pytest.mark.parametrize(
    ('make', 'text', 'character', 'place'),
    [
        (lambda: made(models.BPE(AB, [])), 'azzyza', 'z', 1),
        (lambda: made(models.BPE(AB, [])), 'ab \nc', ' ', 2),
        (lambda: made(models.BPE(AB, [], end_of_word_suffix='</w>')), 'ab', 'b', 1),
        (lambda: made(models.BPE(AB, [], unk_token='[none]')), 'baé', 'é', 2),
        (lambda: made(models.BPE(AB | {'<0x41>': 2}, [], byte_fallback=True)), 'aAB', 'B', 2),
        (lambda: made(models.BPE(AB, []), normalizer=normalizers.NFD()), 'aéa', 'é', 1),
        (lambda: made(models.Unigram([('a', -1.0), ('b', -2.0)])), 'abccb', 'cc', 2),
        (unigram_of_bytes, 'abcb', 'c', 2),
        (lambda: made(models.WordLevel(AB), pre_tokenizer=pre_tokenizers.Whitespace()), 'a  cc b', 'cc', 3),
        (lambda: made(models.WordPiece(AB), pre_tokenizer=pre_tokenizers.Whitespace()), 'a c', 'c', 2),
        (of_bytes, 'a bé', 'é', 3),
    ],
)
def test_the_first_character_without_an_id_is_named(make, text, character, place):
    with pytest.raises(UserError) as error:
        make().encode_batch(['ab'[: not place], text])
    assert str(error.value).startswith(f'the tokenizer has no id for {character!r}, at character {place} of the text')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('make', 'text', 'ids'),
    [
        (lambda: made(models.BPE(AB | {'ab': 2}, [('a', 'b')])), 'aab', [0, 2]),
        (lambda: made(models.BPE(AB | {'[none]': 2}, [], unk_token='[none]')), 'acb', [0, 2, 1]),
        (lambda: made(models.BPE(AB | {'<0x41>': 2}, [], byte_fallback=True)), 'aA', [0, 2]),
        (lambda: made(models.BPE(AB, []), pre_tokenizer=pre_tokenizers.Whitespace()), 'a \n b', [0, 1]),
        (of_bytes, 'a b', [0, 3, 1]),
    ],
)
def test_what_it_has_ids_for_gets_them(make, text, ids):
    assert make().encode(text).tolist() == ids


def test_what_is_refused_for_another_reason_is_one_line(monkeypatch):
    monkeypatch.setattr(tokenizer.lacking, 'first', lambda *_: None)
    with pytest.raises(UserError, match=r'^the tokenizer does not take the text \(.*unk_id.*\); mend the text'):
        unigram_of_bytes().encode('c')


def test_a_model_of_words_begins_texts_as_its_files_say():
    start = processors.TemplateProcessing(single='[S] $A', special_tokens=[('[S]', 1)])
    words = made(models.WordLevel({'other': 0, '[S]': 1}), post_processor=start)
    assert tokenizer.beginning(words) == (1,)


def test_a_folder_of_vocabulary_and_merges(tmp_path):
    (tmp_path / 'vocab.json').write_text(json.dumps(AB))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\n')
    with pytest.raises(UserError, match="no id for 'z', at character 1 of the text"):
        tokenizer.make(str(tmp_path), list).encode('az')
