"""Is a model found where it is said to be, with the tokenizer that it was trained with?"""

import json
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import gpt_jax
from gpt_jax import inference, overrides, pretrained
from gpt_jax.data import prepare, tokenizer
from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.modes import export_weights, import_weights
from gpt_jax.train import manifest
from tests import trained


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'run')


def find(source, step=None):
    return pretrained.find(str(source), step=step, say=print)


def weights(found):
    return jax.tree.map(np.asarray, found.params(inference.home(found.model, data=1, fsdp=1).weights))


def test_a_run(run):
    found = find(run)
    assert (found.model.width, found.model.vocab_size) == (32, 256)
    assert (found.ends, found.beginning) == ((255,), ())
    assert weights(found)['blocks']['attention']['query'].shape == (2, 32, 4, 8)


def test_what_training_alone_needs_is_off(tmp_path):
    model = find(trained.folder(tmp_path / 'run', dropout=0.1, remat='block', scan_layers=True)).model
    assert (model.dropout, model.remat, model.scan_layers) == (0.0, 'none', False)


def test_a_run_of_a_version_that_knew_fewer_fields(run, tmp_path):
    folder = trained.folder(tmp_path / 'old')
    meta = manifest.read(folder / 'checkpoints' / '3')
    del meta['meta']['config']['model']['qk_norm']
    manifest.write(folder / 'checkpoints' / '3', step=3, meta=meta['meta'], leaves=meta['leaves'])
    assert find(folder).model == find(run).model


def test_a_trial_of_a_sweep(run, tmp_path):
    shutil.copytree(run, tmp_path / 'sweep' / 'trials' / 'one')
    assert find(tmp_path / 'sweep' / 'trials' / 'one').model == find(run).model
    with pytest.raises(UserError, match=r'sweep: a sweep; name one of its trials, .*/trials/one$'):
        find(tmp_path / 'sweep')


@pytest.mark.parametrize('source', ['./nowhere', '', 'no/where/at/all', 'runs/nowhere', 'a file', 'x.txt'])
def test_nothing_there(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'x.txt').touch()
    with pytest.raises(UserError, match='holds no checkpoint; name the folder of a run'):
        find(source)


@pytest.mark.parametrize('name', ['gpt2', 'openai-community/gpt2', 'gpt2@e7da7f2'])
def test_a_name_of_the_hub(published, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    asked = []

    def snapshot_download(name, **given):
        asked.append((name, given['revision']))
        return str(published)

    monkeypatch.setitem(sys.modules, 'huggingface_hub', types.SimpleNamespace(snapshot_download=snapshot_download))
    model = gpt_jax.load(name, draft=name)
    assert asked == [(name.partition('@')[0], name.partition('@')[2] or None)] * 2
    assert len(model.generate('The weather today is', max_length=25)[0].tokens) == 5


@pytest.mark.parametrize('source', ['x' * 300, '~nobody_of_that_name/run'])
def test_names_that_no_folder_can_have(source, tmp_path):
    for call, asked in (
        (lambda: gpt_jax.load(source), 'checkpoint'),
        (lambda: export_weights.export(Path(source), tmp_path / 'out', overrides.defaults(), 'float32', print),
         '--checkpoint'),
        (lambda: import_weights.import_weights(source, overrides.defaults(), tmp_path / 'run', print), '--source'),
        (lambda: tokenizer.make(source, list), 'config.data.tokenizer'),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf'^{asked}={source[:80]}'):
            call()


def test_a_name_that_the_hub_does_not_give(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    missing = r'^%s=nowhere: no such folder, and fetching from the hub takes: pip install [^\n]*$'
    with pytest.raises(UserError, match=missing % 'checkpoint'):
        gpt_jax.load('nowhere')
    with pytest.raises(UserError, match=missing % 'draft'):
        gpt_jax.load(run, draft='nowhere')
    with pytest.raises(UserError, match=missing % '--source'):
        import_weights.import_weights('nowhere', overrides.defaults(), run / 'imported', print)


def test_a_run_that_has_saved_nothing_yet_and_a_step_that_is_not_there(run, tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(UserError, match='holds no checkpoint yet'):
        find(tmp_path)
    assert weights(find(run, step=3))
    with pytest.raises(UserError, match='no checkpoint of step 4; there are 3'):
        weights(find(run, step=4))


@pytest.mark.parametrize('content', ['{', '', '[]', None])
def test_a_damaged_run_is_called_damaged(run, tmp_path, content):
    shutil.copytree(run, tmp_path / 'run')
    kept = tmp_path / 'run' / 'checkpoints' / '3' / manifest.NAME
    kept.unlink() if content is None else kept.write_text(content)
    message = r'run/checkpoints/3: damaged \(manifest.json [^\n]*no good checkpoint is left of this run'
    with pytest.raises(UserError, match=message):
        find(tmp_path / 'run')
    with pytest.raises(UserError, match=message):
        export_weights.export(tmp_path / 'run', tmp_path / 'out', overrides.defaults(), 'float32', print)
    shutil.rmtree(kept.parent)
    with pytest.raises(UserError, match='no good checkpoint is left of this run'):
        find(tmp_path / 'run')


def test_the_tokenizer_stands_in_the_folder_or_in_the_cache(tmp_path, source):
    data = overrides.defaults()['data'] | {'source': source, 'tokenizer': 'bpe:300', 'cache': str(tmp_path / 'cache')}
    words = prepare.prepare(DataConfig(**data), print).tokenizer()
    folder = trained.folder(tmp_path / 'run', words=words)
    assert find(folder).tokenizer.fingerprint == words.fingerprint
    (folder / 'tokenizer.json').unlink()
    with_data(folder, data)
    assert find(folder).tokenizer.fingerprint == words.fingerprint
    shutil.rmtree(tmp_path / 'cache')
    with pytest.raises(
        UserError, match=r'its tokenizer, bpe:300 of .* copy that tokenizer.json to .*/run/tokenizer.json'
    ):
        find(folder)


def with_data(folder, data):
    meta = manifest.read(folder / 'checkpoints' / '3')
    meta['meta']['config']['data'] = data
    manifest.write(folder / 'checkpoints' / '3', step=3, meta=meta['meta'], leaves=meta['leaves'])


def test_a_folder_of_hugging_faces(run, tmp_path):
    out = tmp_path / 'exported'
    export_weights.export(run, out, overrides.defaults(), 'float32', print)
    ours, theirs = find(run), find(out)
    text = 'naïve text'
    assert theirs.tokenizer.encode(text).tolist() == ours.tokenizer.encode(text).tolist()
    assert theirs.ends == ours.ends
    jax.tree.map(np.testing.assert_array_equal, weights(theirs), weights(ours))
    with pytest.raises(UserError, match='has no steps'):
        find(out, step=1)
    unfollowed = json.loads((out / 'generation_config.json').read_text()) | {'repetition_penalty': 1.3, 'top_k': 9}
    (out / 'generation_config.json').write_text(json.dumps(unfollowed))
    said = []
    pretrained.find(str(out), step=None, say=said.append)
    assert said == [
        f'{out}/generation_config.json: repetition_penalty: 1.3: not followed; give as options what is wanted'
    ]
    (out / 'tokenizer.json').unlink()
    with pytest.raises(UserError, match='holds neither tokenizer'):
        find(out)


@pytest.mark.parametrize('name', ['config.json', 'generation_config.json'])
@pytest.mark.parametrize('said', ['x', {}, [['1']], [1, -1], -1, 256, 1.5, 1e6, True, [None]])
def test_an_end_that_is_no_id_is_refused(published, name, said):
    (published / 'generation_config.json').unlink(missing_ok=True)
    about = json.loads((published / name).read_text()) if name == 'config.json' else {}
    (published / name).write_text(json.dumps(about | {'eos_token_id': said}))
    message = rf'{name}: eos_token_id: wants ids from 0 to 255, got [^\n]+$'
    with pytest.raises(UserError, match=message):
        find(published)
    with pytest.raises(UserError, match=message):
        import_weights.import_weights(str(published), overrides.defaults(), published / 'run', print)


@pytest.fixture
def published(run, tmp_path):
    export_weights.export(run, tmp_path / 'published', overrides.defaults(), 'float32', print)
    return tmp_path / 'published'


def test_what_goes_before_a_text():
    import tokenizers

    words = tokenizer.train(['plain words and more words'] * 9, 280)
    assert tokenizer.beginning(words) == tokenizer.beginning(tokenizer.make('bytes', lambda: ())) == ()
    content = json.loads(words.content)
    content['post_processor'] = {
        'type': 'TemplateProcessing',
        'single': [{'SpecialToken': {'id': '<|endoftext|>', 'type_id': 0}}, {'Sequence': {'id': 'A', 'type_id': 0}}],
        'pair': [],
        'special_tokens': {'<|endoftext|>': {'id': '<|endoftext|>', 'ids': [0], 'tokens': ['<|endoftext|>']}},
    }
    assert tokenizers.Tokenizer.from_str(json.dumps(content)).encode('word').ids[0] == 0
    made = tokenizer._from_content(json.dumps(content).encode(), 'here')
    assert tokenizer.beginning(made) == (0,)
    assert made.encode('words')[0] != 0
