"""Tests of tokenized datasets: built once across processes, never used when incomplete."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.data.tokenized_dataset import prepare_dataset

TEXT = 'All work and no play makes é a dull 😀.\n' * 50

# Prepares the dataset of the config in its first argument; with 'die', kills itself at chunk three.
CODE = """
import json, os, signal, sys, time
from gpt_jax.core.config import DataConfig
from gpt_jax.data import token_cache
from gpt_jax.data.tokenized_dataset import prepare_dataset
token_cache.MAX_BATCH_CHUNKS = 1
calls, add = [], token_cache._SplitWriter.add
def slow_add(self, chunk, ids):
    calls.append(chunk)
    if sys.argv[2] == 'die' and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(.05)
    return add(self, chunk, ids)
token_cache._SplitWriter.add = slow_add
dataset = prepare_dataset(DataConfig(**json.loads(sys.argv[1])), log=lambda _: None)
slow = {'tensorflow_datasets', 'tokenizers', 'pyarrow', 'grain', 'jax', 'tqdm'}
print(dataset.fingerprint, len(calls), ','.join(sorted(slow & sys.modules.keys())) or 'quick')
"""


def start(config, action=''):
    command = [sys.executable, '-c', CODE, json.dumps(dataclasses.asdict(config)), action]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def text(tmp_path):
    (tmp_path / 'a.txt').write_text(TEXT)
    return TEXT


def quiet(_):
    pass


def test_tail_of_one_file(config, text):
    dataset = prepare_dataset(config(), quiet)
    cut = int(len(text) * 0.9)
    end = b'\xff'
    assert bytes(dataset.train.ids.tolist()) == text[:cut].encode() + end
    assert bytes(dataset.validation.ids.tolist()) == text[cut:].encode() + end
    assert dataset.train.text_bytes + dataset.validation.text_bytes == len(text.encode())
    assert (dataset.test, dataset.vocab_size) == (None, 256)
    assert dataset.load_tokenizer().decode(dataset.train.ids) == text[:cut]


@pytest.mark.usefixtures('text')
def test_existing_cache_opens_quickly_and_silently(config):
    log = []
    first = prepare_dataset(config(tokenizer='bpe:300'), log.append)
    assert any('tokenizing' in line for line in log)
    log.clear()
    again = prepare_dataset(config(tokenizer='bpe:300', packing='isolate'), log.append)
    assert log == []
    assert (again.path, again.fingerprint) == (first.path, first.fingerprint)
    out, _ = start(config(tokenizer='bpe:300')).communicate()
    assert out.split() == [first.fingerprint, '0', 'quick']


@pytest.mark.usefixtures('text')
def test_every_field_that_affects_tokens_has_its_own_cache(config, tmp_path):
    (tmp_path / 'b.md').write_text('other text')
    changes = [
        {},
        {'tokenizer': 'bpe:300'},
        {'validation_fraction': 0.2},
        {'validation_source': f'files:{tmp_path}/b.md'},
        {'source': f'files:{tmp_path}/a.txt,{tmp_path}/b.md'},
    ]
    datasets = [prepare_dataset(config(**change), quiet) for change in changes]
    assert len({dataset.path for dataset in datasets}) == len(changes)
    assert len({dataset.fingerprint for dataset in datasets}) == len(changes)


@pytest.mark.usefixtures('text')
def test_same_text_has_the_same_fingerprint(config, tmp_path):
    first = prepare_dataset(config(), quiet)
    os.utime(tmp_path / 'a.txt', (1, 1))
    second = prepare_dataset(config(), quiet)
    assert second.path != first.path
    assert second.fingerprint == first.fingerprint
    (tmp_path / 'a.txt').write_text(TEXT.replace('work', 'kwor', 1))
    assert prepare_dataset(config(), quiet).fingerprint != first.fingerprint


@pytest.mark.usefixtures('text')
def test_bpe_is_trained_on_the_train_split_only(config, tmp_path):
    (tmp_path / 'v.md').write_text('zzzzqqqq ' * 100)
    alone = prepare_dataset(
        config(tokenizer='bpe:300', validation_source=f'files:{tmp_path}/v.md'), quiet
    )
    (tmp_path / 'v.md').write_text('wwwwxxxx ' * 100)
    other = prepare_dataset(
        config(tokenizer='bpe:300', validation_source=f'files:{tmp_path}/v.md'), quiet
    )
    assert alone.load_tokenizer().fingerprint == other.load_tokenizer().fingerprint
    assert alone.fingerprint != other.fingerprint
    assert other.load_tokenizer().decode(other.validation.ids) == 'wwwwxxxx ' * 100


@pytest.mark.usefixtures('stdlib')
def test_stdlib_dataset(config):
    dataset = prepare_dataset(config(source='tfds:python_stdlib'), quiet)
    splits = [dataset.train, dataset.validation, dataset.test]
    assert sum(len(split.document_starts) for split in splits) == 60
    counts = [dataset.load_tokenizer().decode(split.ids).count('VALUE') for split in splits]
    assert counts == [len(split.document_starts) for split in splits]


def hashes_agree(folder):
    """Whether each file of a cache has the SHA-256 that meta.json gives."""
    identities = files.read_json(folder / 'meta.json')['files']
    return all(
        files.sha256_file(folder / name) == identity['sha256']
        for name, identity in identities.items()
    )


def test_four_processes_build_the_cache_once(config, tmp_path):
    for i in range(6):
        (tmp_path / f'{i}.txt').write_text(TEXT * (i + 1))
    running = [start(config()) for _ in range(4)]
    results = [process.communicate()[0].split() for process in running]
    assert len({fingerprint for fingerprint, _, _ in results}) == 1
    # Seven chunks of six documents, because one document is cut in two.
    assert sorted(int(calls) for _, calls, _ in results) == [0, 0, 0, 7]
    dataset = prepare_dataset(config(), quiet)
    assert dataset.fingerprint == results[0][0]
    assert hashes_agree(dataset.path)


def test_killed_process_leaves_nothing_that_is_used(config, tmp_path):
    for i in range(6):
        (tmp_path / f'{i}.txt').write_text(TEXT * (i + 1))
    process = start(config(), 'die')
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    folders = [path.name for path in (tmp_path / 'cache').iterdir() if path.is_dir()]
    assert [name for name in folders if not name.endswith('.unfinished')] == []
    assert folders
    dataset = prepare_dataset(config(), quiet)
    assert hashes_agree(dataset.path)
    assert [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()] == [dataset.path]
    assert dataset.train.text_bytes + dataset.validation.text_bytes == 21 * len(TEXT.encode())


@pytest.mark.parametrize('name', ['train.ids', 'train.starts', 'tokenizer.json', 'meta.json'])
@pytest.mark.usefixtures('text')
def test_truncated_cache_is_rebuilt_with_a_message(config, name):
    first = prepare_dataset(config(), quiet)
    content = (first.path / name).read_bytes()
    (first.path / name).write_bytes(content[: len(content) // 2])
    log = []
    again = prepare_dataset(config(), log.append)
    assert name in log[0]
    assert 'building it again' in log[0]
    assert again.fingerprint == first.fingerprint
    assert (again.path / name).read_bytes() == content


def test_source_without_text_is_rejected(config, tmp_path):
    (tmp_path / 'a.txt').write_text('')
    with pytest.raises(UserError, match=r'^data\.source: must contain text, got none in '):
        prepare_dataset(config(), quiet)
    assert [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures('text')
def test_empty_split_is_rejected(config, tmp_path):
    with pytest.raises(
        UserError, match=r"^data\.holdout: leaves nothing for (train|validation) .*'tail'"
    ):
        prepare_dataset(config(holdout='documents'), quiet)
    (tmp_path / 'v.md').write_text('')
    with pytest.raises(UserError, match=r'^data\.validation_source: must contain text'):
        prepare_dataset(config(validation_source=f'files:{tmp_path}/v.md'), quiet)


@pytest.mark.usefixtures('text')
def test_text_that_changes_during_tokenization_is_rejected(config, tmp_path):
    def change(_):
        (tmp_path / 'a.txt').write_text('new')

    with pytest.raises(UserError, match='changed while it was read'):
        prepare_dataset(config(), change)


@pytest.mark.usefixtures('text')
def test_invalid_input_leaves_no_cache(config, tmp_path):
    (tmp_path / 'b.txt').write_bytes(b'abc\xff')
    with pytest.raises(UserError, match=r'b\.txt: not UTF-8 at byte 3'):
        prepare_dataset(config(), quiet)
    assert [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures('text')
def test_unwritable_cache_is_rejected(config, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'^data\.cache: .*file'):
        prepare_dataset(config(cache=f'{tmp_path}/file/cache'), quiet)
