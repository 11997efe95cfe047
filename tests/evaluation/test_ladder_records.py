"""`gpt-jax eval --records`: rows of checkpoints that `gpt-jax fit` reads."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest

import gpt_jax
from gpt_jax.core.files import read_jsonl
from gpt_jax.data import tokenizer
from gpt_jax.evaluation import ladder_checkpoints, ladder_records
from gpt_jax.inference import language_model
from gpt_jax.interop import huggingface
from tests import in_process, trained
from tests.inference.test_scoring import compute_log_p

TEXTS = ['To be, or not to be, that is the question', 'Whether it is nobler in the mind', ' \n']
STEP = 3  # of the checkpoints that tests.trained writes


def run(*words, code=0):
    return in_process.run([sys.executable, '-m', 'gpt_jax', *map(str, words)], code=code)


@pytest.fixture(scope='module')
def ladder(tmp_path_factory):
    """Runs of three sizes, of which w48 is not finished, and a text."""
    folder = tmp_path_factory.mktemp('ladder')
    for seed, width in enumerate((16, 32, 48)):
        path = trained.folder(folder / f'w{width}', width=width, seed=seed, layers=1)
        if width != 48:
            summary = {'tokens': 40_000 * width, 'steps': 2 * STEP, 'role': 'run'}
            (path / 'summary.json').write_text(json.dumps(summary))
    rows = ''.join(json.dumps({'text': text}) + '\n' for text in TEXTS)
    (folder / 'text.jsonl').write_text(rows)
    (folder / 'tokens.csv').write_text(f'checkpoint,tokens\n{folder}/w48,3e6\n')
    return folder


@pytest.fixture(scope='module')
def records(ladder):
    """The file of records, written in two calls, and what the second one printed."""
    path = ladder / 'records.jsonl'
    flags = [f'--text={ladder}/text.jsonl', f'--records={path}']
    run('eval', ladder / 'w16', ladder / 'w32', *flags)
    before = path.read_text()
    out, err = run('eval', *ladder.glob('w*'), *flags, f'--tokens={ladder}/tokens.csv')
    assert path.read_text().startswith(before)
    assert err.count('is in') == 2
    assert len(out.splitlines()) == 3
    assert f'3 models; next: gpt-jax fit {path}\n' in err
    return path


def test_rows_have_the_loss_and_the_counts(ladder, records):
    rows = read_jsonl(records)
    assert [row['name'] for row in rows] == [f'{ladder}/w{width}' for width in (16, 32, 48)]
    # Half of the steps of the summary; of the table.
    assert [row['tokens'] for row in rows] == [320_000, 640_000, 3_000_000]
    assert len({row['text_sha256'] for row in rows}) == len({r['tokenization'] for r in rows}) == 1
    assert [(row['revision'], row['role']) for row in rows] == [
        ('3', 'run'),
        ('3', 'run'),
        ('3', ''),
    ]
    model = gpt_jax.load(ladder / 'w32')
    nats = 0.0
    for text in TEXTS[:2]:
        ids = np.concatenate([[255], np.frombuffer(text.encode(), np.uint8)])
        nats -= compute_log_p(model, ids[:-1])[np.arange(len(text)), ids[1:]].sum()
    size = sum(map(len, TEXTS[:2]))
    assert rows[1]['loss'] == pytest.approx(nats / size, rel=1e-6)
    assert rows[1]['bits_per_byte'] == pytest.approx(nats / size / np.log(2), rel=1e-6)
    assert (rows[1]['scored_tokens'], rows[1]['scored_bytes']) == (size, size)
    params = sum(leaf.size for leaf in jax.tree.leaves(model._params))
    assert rows[1]['params_total'] == params
    assert rows[1]['params_without_positions'] == params - 64 * 32
    assert rows[1]['flops_6N'] == 6 * rows[1]['params_without_positions'] * 640_000


def test_fit_reads_the_rows(records):
    out, _ = run('fit', records, '--law=power', '--no_irreducible', '--draws=0')
    assert '3 runs' in out
    assert 'total' in out


def test_a_published_folder_has_the_loss_of_the_run_and_its_revision(ladder, records, tmp_path):
    cache = tmp_path / 'models--me--tiny'
    (cache / 'snapshots').mkdir(parents=True)
    run('export', ladder / 'w48', cache / 'snapshots' / 'abc123')
    flags = [f'--text={ladder}/text.jsonl', f'--records={tmp_path}/published.jsonl']
    _, err = run('eval', cache, *flags, code=2)
    assert 'models--me--tiny: the number of tokens it was trained on is unknown' in err
    run('eval', cache, *flags, '--tokens=3e6')
    (row,), expected = read_jsonl(tmp_path / 'published.jsonl'), read_jsonl(records)[2]
    assert (row['revision'], row['tokens']) == ('abc123', 3_000_000)
    assert row['loss'] == pytest.approx(expected['loss'], rel=1e-6)
    same = ('params_total', 'params_non_embedding', 'flops_6N', 'tokenization', 'scored_bytes')
    assert [row[name] for name in same] == [expected[name] for name in same]


def test_a_folder_with_other_weights_is_scored_again_and_named_once(tmp_path, monkeypatch):
    """Of a run and of a published folder, under several spellings, here and in the table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.txt').write_text(TEXTS[0])
    (tmp_path / 'tokens.csv').write_text('checkpoint,tokens\nrun/,3e6\n./published,4e6\n')
    flags = ['--text=text.txt', '--records=rec.jsonl', '--tokens=tokens.csv']
    spellings = ['run', 'published/', 'run/', f'../{tmp_path.name}/run', tmp_path / 'published']
    losses = []
    for seed in range(2):
        trained.folder(tmp_path / 'run', layers=1, width=16, seed=seed)
        run('export', 'run', 'published')
        _, err = run('eval', *spellings, *flags)
        assert err.count('holds other weights than its row in rec.jsonl; scored again') == 2 * seed
        rows = read_jsonl('rec.jsonl')
        assert [row['checkpoint'] for row in rows] == ['run', 'published/']
        assert [row['tokens'] for row in rows] == [3_000_000, 4_000_000]
        assert rows[0]['loss'] == pytest.approx(rows[1]['loss'], rel=1e-6)
        losses.append(rows[0]['loss'])
        if seed:
            _, err = run('eval', *spellings[::-1], *flags)
            assert (err.count('is in rec.jsonl already'), read_jsonl('rec.jsonl')) == (2, rows)
        shutil.rmtree('run')
        shutil.rmtree('published')
    assert losses[0] != losses[1]


def test_a_branch_of_the_hub_that_moved_is_other_weights(monkeypatch):
    commits = {'me/tiny': 'c1', 'me/tiny@main': 'c1', 'me/tiny@old': 'c0'}
    monkeypatch.setattr(huggingface, 'find_commit', lambda name: commits[name])
    names = [ladder_checkpoints.find_checkpoint(name, 7) for name in commits]
    assert [c.location for c in names] == ['me/tiny', 'me/tiny', 'me/tiny@old']
    row = {'checkpoint': 'me/tiny', 'location': 'me/tiny', 'weights_id': 'c1'}
    assert [ladder_records._has_weights(row, c) for c in names] == [True, True, False]
    for commit, is_known in (('c2', False), ('', True)):  # '': the hub does not answer
        commits['me/tiny'] = commit
        now = ladder_checkpoints.find_checkpoint('me/tiny', 7)
        assert ladder_records._has_weights(row, now) is is_known
        assert ladder_records._is_of(row, now)


def test_one_model_is_in_memory_at_a_time(ladder, records, tmp_path, monkeypatch):
    load, held = language_model.load, []

    def load_and_measure(name, **options):
        held.append(sum(array.nbytes for array in jax.live_arrays()))
        return load(name, **options)

    monkeypatch.setattr(language_model, 'load', load_and_measure)
    flags = [f'--text={ladder}/text.jsonl', f'--records={tmp_path}/again.jsonl']
    run('eval', ladder / 'w32', ladder / 'w16', *flags)
    assert held[1] <= held[0]
    assert read_jsonl(tmp_path / 'again.jsonl') == read_jsonl(records)[1::-1]


def test_losses_of_different_tokenizers_are_fitted_per_byte(ladder, records, tmp_path):
    words = tokenizer.make_tokenizer('bpe:300', lambda: iter(TEXTS * 20))
    other = trained.folder(tmp_path / 'other', words=words, layers=1)
    path = tmp_path / 'mixed.jsonl'
    path.write_text(records.read_text())
    flags = [f'--text={ladder}/text.jsonl', f'--records={path}', '--tokens=5e6']
    _, err = run('eval', other, *flags)
    _, err = run('eval', ladder / 'w16', other, *flags[:2], f'--tokens={ladder}/x.csv', code=2)
    assert "--tokens: must be a number of tokens, such as 300e9, got '" in err
    (tmp_path / 'tokens.csv').write_text(f'checkpoint,tokens\n{other},5e6\n')
    _, err = run('eval', ladder / 'w16', other, *flags[:2], f'--tokens={tmp_path}/tokens.csv')
    assert f'gpt-jax fit {path} --columns=bits_per_byte=loss' in err
    fit = ['fit', path, '--law=power', '--no_irreducible', '--draws=0']
    _, err = run(*fit, code=2)
    assert '2 tokenizers split the text into different tokens' in err
    out, _ = run(*fit, '--columns=bits_per_byte=loss')
    assert '4 runs' in out


@pytest.mark.parametrize(
    ('models', 'flags', 'message'),
    [
        (
            'w48',
            [],
            'w48: the number of tokens it was trained on is unknown; give it with --tokens',
        ),
        ('w16', ['--tokens=7'], 'w16: was trained on 320000 tokens, but --tokens says 7'),
        ('w17', ['--tokens=7'], 'w17: no such folder'),
        ('w16', ['--context=8'], 'row 1 has another --context (0, not 8); choose another file'),
        ('w48', ['--tokens=7'], 'has 3000000 tokens for'),
        ('w16', ['--max_examples=3'], '--max_examples: must be used without --records'),
    ],
)
def test_bad_input_is_one_line(ladder, records, models, flags, message):
    before = records.read_text()
    command = ['eval', ladder / models, f'--text={ladder}/text.jsonl', f'--records={records}']
    _, err = run(*command, *flags, code=2)
    assert message in err.splitlines()[-1]
    assert records.read_text() == before


def test_another_text_and_missing_flags_are_one_line(ladder, records, tmp_path):
    (tmp_path / 'other.txt').write_text('another text')
    flags = [f'--text={tmp_path}/other.txt', f'--records={records}']
    _, err = run('eval', ladder / 'w16', *flags, code=2)
    assert 'row 1 has another --text' in err
    _, err = run('eval', ladder / 'w16', flags[1], code=2)
    assert '--records: must be used with --text' in err
    _, err = run('eval', ladder / 'w16', ladder / 'w32', code=2)
    assert 'MODEL: must be one without --records, got 2' in err
    _, err = run('eval', ladder / 'w16', '--tokens=5', code=2)
    assert '--tokens: must be used with --records' in err
