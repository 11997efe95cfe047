"""Is a corpus made once, whoever asks and whoever dies, and never used broken?"""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from gpt_jax.data import tokens
from gpt_jax.data.prepare import prepare
from gpt_jax.errors import UserError

TEXT = 'All work and no play makes é a dull 😀.\n' * 50

# Prepares the configuration given as an argument; dies at the third batch if told to.
CODE = """
import json, os, signal, sys, time
from gpt_jax.data import tokens
from gpt_jax.data.config import DataConfig
from gpt_jax.data.prepare import prepare
tokens.BATCH_PIECES = 1
calls, add = [], tokens._Writer.add
def slow(self, piece, ids):
    calls.append(piece)
    if sys.argv[2] == 'die' and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(.05)
    return add(self, piece, ids)
tokens._Writer.add = slow
corpus = prepare(DataConfig(**json.loads(sys.argv[1])), announce=lambda _: None)
slow_imports = {'tensorflow_datasets', 'tokenizers', 'pyarrow', 'grain', 'jax', 'tqdm'} & sys.modules.keys()
print(corpus.fingerprint, len(calls), ','.join(sorted(slow_imports)) or 'quick')
"""


def start(config, what=''):
    command = [sys.executable, '-c', CODE, json.dumps(dataclasses.asdict(config)), what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def text(tmp_path):
    (tmp_path / 'a.txt').write_text(TEXT)
    return TEXT


def quiet(_):
    pass


def test_tail_of_one_file(config, text):
    corpus = prepare(config(), quiet)
    cut = int(len(text) * 0.9)
    end = b'\xff'
    assert bytes(corpus.train.ids.tolist()) == text[:cut].encode() + end
    assert bytes(corpus.validation.ids.tolist()) == text[cut:].encode() + end
    assert corpus.train.bytes + corpus.validation.bytes == len(text.encode())
    assert (corpus.test, corpus.vocab_size) == (None, 256)
    assert corpus.tokenizer().decode(corpus.train.ids) == text[:cut]


@pytest.mark.usefixtures('text')
def test_found_again_quickly_and_in_silence(config):
    said = []
    first = prepare(config(tokenizer='bpe:300'), said.append)
    assert any('tokenizing' in line for line in said)
    del said[:]
    again = prepare(config(tokenizer='bpe:300', packing='isolate'), said.append)
    assert said == []
    assert (again.path, again.fingerprint) == (first.path, first.fingerprint)
    out, _ = start(config(tokenizer='bpe:300')).communicate()
    assert out.split() == [first.fingerprint, '0', 'quick']


@pytest.mark.usefixtures('text')
def test_every_setting_that_decides_tokens_has_its_own_cache(config, tmp_path):
    (tmp_path / 'b.md').write_text('other text')
    changes = [
        {},
        {'tokenizer': 'bpe:300'},
        {'validation_fraction': 0.2},
        {'validation_source': f'files:{tmp_path}/b.md'},
        {'source': f'files:{tmp_path}/a.txt,{tmp_path}/b.md'},
    ]
    found = [prepare(config(**change), quiet) for change in changes]
    assert len({corpus.path for corpus in found}) == len({corpus.fingerprint for corpus in found}) == len(changes)


@pytest.mark.usefixtures('text')
def test_same_text_elsewhere_has_the_same_fingerprint(config, tmp_path):
    first = prepare(config(), quiet)
    os.utime(tmp_path / 'a.txt', (1, 1))
    second = prepare(config(), quiet)
    assert second.path != first.path
    assert second.fingerprint == first.fingerprint
    (tmp_path / 'a.txt').write_text(TEXT.replace('work', 'kwor', 1))
    assert prepare(config(), quiet).fingerprint != first.fingerprint


@pytest.mark.usefixtures('text')
def test_bpe_is_trained_on_the_train_split_alone(config, tmp_path):
    (tmp_path / 'v.md').write_text('zzzzqqqq ' * 100)
    alone = prepare(config(tokenizer='bpe:300', validation_source=f'files:{tmp_path}/v.md'), quiet)
    (tmp_path / 'v.md').write_text('wwwwxxxx ' * 100)
    other = prepare(config(tokenizer='bpe:300', validation_source=f'files:{tmp_path}/v.md'), quiet)
    assert alone.tokenizer().fingerprint == other.tokenizer().fingerprint
    assert alone.fingerprint != other.fingerprint
    assert other.tokenizer().decode(other.validation.ids) == 'wwwwxxxx ' * 100


@pytest.mark.usefixtures('stdlib')
def test_library(config):
    corpus = prepare(config(source='tfds:python_stdlib'), quiet)
    splits = [corpus.train, corpus.validation, corpus.test]
    assert sum(len(split.starts) for split in splits) == 60
    held = [corpus.tokenizer().decode(split.ids).count('VALUE') for split in splits]
    assert held == [len(split.starts) for split in splits]


def test_four_processes_make_it_once(config, tmp_path):
    for i in range(6):
        (tmp_path / f'{i}.txt').write_text(TEXT * (i + 1))
    running = [start(config()) for _ in range(4)]
    results = [process.communicate()[0].split() for process in running]
    assert len({fingerprint for fingerprint, _, _ in results}) == 1
    assert sorted(int(calls) for _, calls, _ in results) == [0, 0, 0, 7]  # one document is cut in two
    corpus = prepare(config(), quiet)
    assert corpus.fingerprint == results[0][0]
    tokens.verify(corpus.path)


def test_a_killed_process_leaves_nothing_that_is_used(config, tmp_path):
    for i in range(6):
        (tmp_path / f'{i}.txt').write_text(TEXT * (i + 1))
    process = start(config(), 'die')
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / 'cache').iterdir() if path.is_dir()]
    assert [name for name in left if not name.endswith('.unfinished')] == []
    assert left
    corpus = prepare(config(), quiet)
    tokens.verify(corpus.path)
    assert [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()] == [corpus.path]
    assert corpus.train.bytes + corpus.validation.bytes == 21 * len(TEXT.encode())


@pytest.mark.parametrize('name', ['train.ids', 'train.starts', 'tokenizer.json', 'meta.json'])
@pytest.mark.usefixtures('text')
def test_a_cut_off_cache_is_made_again_and_said(config, name):
    first = prepare(config(), quiet)
    content = (first.path / name).read_bytes()
    (first.path / name).write_bytes(content[: len(content) // 2])
    said = []
    again = prepare(config(), said.append)
    assert name in said[0]
    assert 'making it again' in said[0]
    assert again.fingerprint == first.fingerprint
    assert (again.path / name).read_bytes() == content


def test_no_text(config, tmp_path):
    (tmp_path / 'a.txt').write_text('')
    with pytest.raises(UserError, match=r'^data\.source: .* holds no text$'):
        prepare(config(), quiet)
    assert [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures('text')
def test_nothing_left_to_train_or_to_validate(config, tmp_path):
    with pytest.raises(UserError, match=r"^data\.holdout: nothing is left for (train|validation) .*'tail'"):
        prepare(config(holdout='documents'), quiet)
    (tmp_path / 'v.md').write_text('')
    with pytest.raises(UserError, match=r'^data\.validation_source: holds no text'):
        prepare(config(validation_source=f'files:{tmp_path}/v.md'), quiet)


@pytest.mark.usefixtures('text')
def test_text_that_changes_meanwhile(config, tmp_path):
    def change(_):
        (tmp_path / 'a.txt').write_text('new')

    with pytest.raises(UserError, match='changed while it was read'):
        prepare(config(), change)


@pytest.mark.usefixtures('text')
def test_bad_input_leaves_nothing(config, tmp_path):
    (tmp_path / 'b.txt').write_bytes(b'abc\xff')
    with pytest.raises(UserError, match=r'b\.txt: not UTF-8 at byte 3'):
        prepare(config(), quiet)
    assert [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures('text')
def test_cache_that_cannot_be_written(config, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'^data\.cache: .*file'):
        prepare(config(cache=f'{tmp_path}/file/cache'), quiet)
