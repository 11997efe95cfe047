"""Bytes of scored targets, against lengths of the raw text, under any limit and packing."""

import json
import unicodedata

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers

from gpt_jax.data import target_bytes, tokenizer
from gpt_jax.data.target_bytes import TargetBytes
from gpt_jax.data.tokenized_dataset import prepare_dataset

# Few tokens per byte first, then many: words, then characters that are no token, and some that
# normalization composes.
DOCUMENTS = ['the cat and the hat ' * 3, 'the cat: 猫猫 e\u0301e\u0301 the', 'a 犬 猫 hat' * 3]


def train_byte_level(folder):
    content = tokenizer.train_bpe(DOCUMENTS[:1], 280).content
    (folder / 'tokenizer.json').write_bytes(content)


def write_composing(folder):
    """Byte-level BPE that composes characters first, as Qwen's does."""
    fields = json.loads(tokenizer.train_bpe(DOCUMENTS[:1], 280).content)
    fields['normalizer'] = {'type': 'NFC'}
    (folder / 'tokenizer.json').write_text(json.dumps(fields))


def write_llama(folder, *, prefix=True):
    """BPE over spaces and bytes, with a space before each text, as Llama 2's."""
    letters = sorted(set('▁the cat and hat:e\u0301'.replace(' ', '')))
    words = ['<unk>', '</s>', *(f'<0x{byte:02X}>' for byte in range(256)), *letters]
    words += ['th', 'the', '▁the', '▁c', 'at', '▁cat']
    merges = [('t', 'h'), ('th', 'e'), ('▁', 'the'), ('▁', 'c'), ('a', 't'), ('▁c', 'at')]
    inner = tokenizers.Tokenizer(
        models.BPE(
            {word: id_ for id_, word in enumerate(words)},
            merges,
            unk_token='<unk>',
            byte_fallback=True,
        )
    )
    inner.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend('▁')] if prefix else []), normalizers.Replace(' ', '▁')]
    )
    strip = [decoders.Strip(' ', 1, 0)] if prefix else []
    inner.decoder = decoders.Sequence(
        [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    inner.add_special_tokens(['<unk>', '</s>'])
    inner.save(str(folder / 'tokenizer.json'))


def write_spaced_gpt2(folder):
    """GPT-2's, with a space before each text that does not begin with one."""
    train_byte_level(folder)
    config = {'tokenizer_class': 'GPT2Tokenizer', 'add_prefix_space': True}
    (folder / 'tokenizer_config.json').write_text(json.dumps(config))


TOKENIZERS = {
    'bytes': None,
    'bpe': train_byte_level,
    'composing': write_composing,
    'llama': write_llama,
    'spaced': write_spaced_gpt2,
}


@pytest.fixture
def prepare(config, tmp_path):
    """Tokenizes DOCUMENTS as validation text; returns TargetBytes, the dataset and the log."""

    def make(name, packing='concatenate'):
        (tmp_path / 'train.txt').write_text('the cat')
        rows = [json.dumps({'text': text}) + '\n' for text in DOCUMENTS]
        (tmp_path / 'held_out.jsonl').write_text(''.join(rows))
        spec, folder = 'bytes', tmp_path / name
        if TOKENIZERS[name] is not None:
            folder.mkdir()
            TOKENIZERS[name](folder)
            spec = str(folder)
        data_config = config(
            tokenizer=spec,
            packing=packing,
            source=f'files:{tmp_path}/train.txt',
            validation_source=f'files:{tmp_path}/held_out.jsonl',
        )
        lines = []
        dataset = prepare_dataset(data_config, lines.append)
        lines.clear()
        return TargetBytes(dataset, data_config, lines.append), dataset, lines

    return make


def count_raw_bytes(encoder, ids, text):
    """Bytes of the part of a text that ids decode to: its shortest beginning that looks alike."""
    decoded = unicodedata.normalize('NFC', encoder.decode(ids)).removeprefix(' ')
    for end in range(len(text) + 1):
        if unicodedata.normalize('NFC', text[:end]) == decoded:
            return len(text[:end].encode())
    return None  # half a character


@pytest.mark.parametrize('name', TOKENIZERS)
@pytest.mark.parametrize('packing', ['concatenate', 'isolate'])
def test_bytes_of_scored_targets_are_those_of_the_raw_text(prepare, name, packing):
    counts, dataset, lines = prepare(name, packing)
    encoder, ids = dataset.load_tokenizer(), dataset.validation.ids
    starts, raw_bytes, base = [], [], 0  # raw_bytes: of the text up to each id, with it
    for text in DOCUMENTS:
        own = encoder.encode(text)
        starts.append(len(raw_bytes))
        for size in range(1, len(own) + 1):
            part = count_raw_bytes(encoder, own[:size], text)
            raw_bytes.append(None if part is None else base + part)
        base += len(text.encode())
        raw_bytes.append(base)  # the end of the document
    assert base == dataset.validation.text_bytes
    assert len(raw_bytes) == len(ids)
    checked = 0
    for limit in (0, 1, 5, 17, 41, len(ids) - 3):
        last = limit or len(ids) - 1
        if raw_bytes[last] is None:
            continue
        total, scored = raw_bytes[last] - raw_bytes[0], last
        if packing == 'isolate':
            for start in starts[1:]:
                if start <= last:
                    total -= raw_bytes[start] - raw_bytes[start - 1]
                    scored -= 1
        mean = counts.average_split('validation', context=7, max_tokens=limit, note=lambda: None)
        assert mean == pytest.approx(total / scored, rel=1e-12), limit
        checked += 1
    assert checked >= 4
    assert not lines


def test_ratio_of_a_part_is_not_that_of_the_whole(prepare):
    counts, _, _ = prepare('bpe')
    means = [
        counts.average_split('validation', context=7, max_tokens=limit, note=lambda: None)
        for limit in (20, 0)
    ]
    assert means[0] > 1.3 * means[1]


def test_ratio_is_left_out_where_it_is_unknown(prepare, tmp_path):
    """Another text than the tokenized one, for a tokenizer whose ids do not tell their bytes."""
    counts, dataset, lines = prepare('llama')
    assert counts.average_batch({'targets': dataset.validation.ids[None]}) is None
    (tmp_path / 'held_out.jsonl').write_text('{"text": "a cat"}\n')
    arguments = {'context': 7, 'max_tokens': 9, 'note': lambda: None}
    assert counts.average_split('validation', **arguments) is None
    assert counts.average_split('validation', **arguments) is None
    assert len(lines) == 1
    assert 'no bits per byte' in lines[0]


def test_training_targets_are_counted_by_weight(prepare):
    counts, _, _ = prepare('bytes')
    batch = {'targets': np.array([[65, 255, 66]]), 'weights': np.array([[1, 1, 0]], np.float32)}
    assert counts.average_batch(batch) == 0.5


@pytest.mark.parametrize(
    ('change', 'is_exact'),
    [
        ({}, True),
        ({'normalizer': {'type': 'Lowercase'}}, False),
        ({'pre_tokenizer': {'type': 'Whitespace'}}, False),
        ({'model.end_of_word_suffix': '</w>'}, False),
        ({'model.dropout': 0.1}, False),
    ],
)
def test_what_ids_do_not_tell(change, is_exact):
    encoder = tokenizer.train_bpe(DOCUMENTS, 280)
    fields = json.loads(encoder.content)
    for key, value in change.items():
        section, _, field = key.rpartition('.')
        (fields[section] if section else fields)[field] = value
    content = json.dumps(fields).encode()
    table = target_bytes.make_byte_table(tokenizer.parse_tokenizer_json(content, 'test'))
    assert table.is_exact == is_exact


def test_white_space_that_an_added_token_takes_is_not_in_the_table():
    inner = tokenizers.Tokenizer.from_str(tokenizer.train_bpe(DOCUMENTS, 280).content.decode())
    inner.add_tokens([tokenizers.AddedToken('cat', lstrip=True)])
    encoder = tokenizer.parse_tokenizer_json(inner.to_str().encode(), 'test')
    table = target_bytes.make_byte_table(encoder)
    assert not table.is_exact
    ((ids, lengths),) = target_bytes.make_measure(encoder, table)(['the  cat'])
    assert lengths.sum() == len('the  cat')
    assert lengths[-1] == len('  cat')
    assert encoder.decode(ids[-1:]) == 'cat'
