"""Pretrained models from runs, Hugging Face folders and the hub, with their tokenizers."""

import functools
import json
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import gpt_jax
from gpt_jax.core.config import DataConfig, default_config
from gpt_jax.core.errors import UserError
from gpt_jax.data import tokenized_dataset, tokenizer
from gpt_jax.inference import pretrained
from gpt_jax.inference.placement import make_placement
from gpt_jax.inference.scoring import ScoringRequest
from gpt_jax.interop import safetensors_files
from gpt_jax.interop.safetensors_files import LazyTensor
from gpt_jax.tasks.chat_template import parse_chat_template
from gpt_jax.train import manifest
from gpt_jax.trainer import export_weights, import_weights, init_from
from gpt_jax.trainer.dataset import load_text_data
from tests import trained


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return trained.folder(tmp_path_factory.mktemp('runs') / 'run')


def find(source, step=None):
    return pretrained.find_pretrained(str(source), step=step, log=print)


def load_weights(model):
    placement = make_placement(model.model_config, data=1, fsdp=1)
    return jax.tree.map(np.asarray, model.load_params(placement.weight_shardings))


def test_run(run):
    model = find(run)
    assert (model.model_config.width, model.model_config.vocab_size) == (32, 256)
    assert (model.end_ids, model.prefix_ids) == ((255,), ())
    assert load_weights(model)['blocks']['attention']['query'].shape == (2, 32, 4, 8)


def test_training_features_are_turned_off(tmp_path):
    folder = trained.folder(tmp_path / 'run', dropout=0.1, remat='block', scan_layers=True)
    config = find(folder).model_config
    assert (config.dropout, config.remat, config.scan_layers) == (0.0, 'none', False)


def test_run_of_an_older_version_with_fewer_fields(run, tmp_path):
    folder = trained.folder(tmp_path / 'old')
    meta = manifest.read_manifest(folder / 'checkpoints' / '3')
    del meta['meta']['config']['model']['qk_norm']
    manifest.write_manifest(
        folder / 'checkpoints' / '3', step=3, meta=meta['meta'], leaves=meta['leaves']
    )
    assert find(folder).model_config == find(run).model_config


def test_trial_of_a_sweep(run, tmp_path):
    shutil.copytree(run, tmp_path / 'sweep' / 'trials' / 'one')
    assert find(tmp_path / 'sweep' / 'trials' / 'one').model_config == find(run).model_config
    with pytest.raises(UserError, match=r'must be a single run, got a sweep; .*/trials/one$'):
        find(tmp_path / 'sweep')


@pytest.mark.parametrize(
    'source', ['./nowhere', '', 'no/where/at/all', 'runs/nowhere', 'a file', 'x.txt']
)
def test_missing_source(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'x.txt').touch()
    with pytest.raises(UserError, match='holds no checkpoint; give the folder of a run'):
        find(source)


@pytest.fixture
def downloads(exported, tmp_path, monkeypatch):
    """A hub that has every name; collects the names and revisions."""
    monkeypatch.chdir(tmp_path)
    downloads = []

    def snapshot_download(name, **given):
        downloads.append((name, given['revision']))
        return str(exported)

    monkeypatch.setitem(
        sys.modules, 'huggingface_hub', types.SimpleNamespace(snapshot_download=snapshot_download)
    )
    return downloads


@pytest.mark.parametrize('name', ['gpt2', 'openai-community/gpt2', 'gpt2@e7da7f2'])
def test_name_on_the_hub(downloads, name):
    assert find(name).model_config.width == 32
    assert downloads == [(name.partition('@')[0], name.partition('@')[2] or None)]


def test_names_on_the_hub_of_a_model_and_its_draft(downloads):
    gpt_jax.load('gpt2', draft='openai-community/gpt2')
    assert downloads == [('gpt2', None), ('openai-community/gpt2', None)]


@pytest.mark.parametrize('source', ['x' * 300, '~nobody_of_that_name/run'])
def test_impossible_folder_names(source, tmp_path):
    for call, argument in (
        (lambda: gpt_jax.load(source), 'checkpoint'),
        (
            lambda: export_weights.export_weights(
                Path(source), tmp_path / 'out', default_config(), 'float32', print
            ),
            'RUN',
        ),
        (
            lambda: import_weights.import_weights(
                source, default_config(), tmp_path / 'run', print
            ),
            'SOURCE',
        ),
        (lambda: tokenizer.make_tokenizer(source, list), 'config.data.tokenizer'),
    ):
        with pytest.raises(UserError, match=rf'^{argument}={source[:80]}'):
            call()


def test_hub_name_without_the_hub_package(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    missing = r'^%s=nowhere: no such folder; to use the hub, pip install [^\n]*$'
    with pytest.raises(UserError, match=missing % 'checkpoint'):
        gpt_jax.load('nowhere')
    with pytest.raises(UserError, match=missing % 'draft'):
        gpt_jax.load(run, draft='nowhere')
    with pytest.raises(UserError, match=missing % 'SOURCE'):
        import_weights.import_weights('nowhere', default_config(), run / 'imported', print)


def test_run_without_checkpoint_and_missing_step(run, tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(UserError, match='holds no checkpoint yet'):
        find(tmp_path)
    assert load_weights(find(run, step=3))
    with pytest.raises(UserError, match='no checkpoint of step 4; there are 3'):
        load_weights(find(run, step=4))


@pytest.mark.parametrize('content', ['{', '', '[]', None])
def test_damaged_run(run, tmp_path, content):
    shutil.copytree(run, tmp_path / 'run')
    path = tmp_path / 'run' / 'checkpoints' / '3' / manifest.MANIFEST_FILE
    path.unlink() if content is None else path.write_text(content)
    message = r'run/checkpoints/3: damaged \(manifest.json [^\n]*no good checkpoint is left'
    with pytest.raises(UserError, match=message):
        find(tmp_path / 'run')
    with pytest.raises(UserError, match=message):
        export_weights.export_weights(
            tmp_path / 'run', tmp_path / 'out', default_config(), 'float32', print
        )
    shutil.rmtree(path.parent)
    with pytest.raises(UserError, match='no good checkpoint is left'):
        find(tmp_path / 'run')


def test_tokenizer_is_in_the_run_folder_or_in_the_cache(tmp_path):
    documents = [{'text': f'{n} words and more words' * 9} for n in range(200)]
    (tmp_path / 'corpus.jsonl').write_text('\n'.join(map(json.dumps, documents)))
    data = default_config()['data'] | {
        'source': f'files:{tmp_path / "corpus.jsonl"}',
        'tokenizer': 'bpe:300',
        'cache': str(tmp_path / 'cache'),
    }
    words = tokenized_dataset.prepare_dataset(DataConfig(**data), print).load_tokenizer()
    folder = trained.folder(tmp_path / 'run', words=words)
    assert find(folder).tokenizer.fingerprint == words.fingerprint
    (folder / 'tokenizer.json').unlink()
    set_data_section(folder, data)
    assert find(folder).tokenizer.fingerprint == words.fingerprint
    shutil.rmtree(tmp_path / 'cache')
    with pytest.raises(
        UserError,
        match=r'its tokenizer, bpe:300 of .* copy its tokenizer.json to .*/run/tokenizer.json',
    ):
        find(folder)


def set_data_section(folder, data):
    meta = manifest.read_manifest(folder / 'checkpoints' / '3')
    meta['meta']['config']['data'] = data
    manifest.write_manifest(
        folder / 'checkpoints' / '3', step=3, meta=meta['meta'], leaves=meta['leaves']
    )


def test_cache_of_the_hub(exported, tmp_path):
    repository, snapshots = tmp_path / 'models--org--name', []
    for revision in ('abc', 'def'):
        snapshots.append(repository / 'snapshots' / revision)
        snapshots[-1].mkdir(parents=True)
    (repository / 'blobs').mkdir()
    for number, file in enumerate(exported.iterdir()):
        shutil.copy(file, repository / 'blobs' / f'{number}f00')
        (snapshots[1] / file.name).symlink_to(f'../../blobs/{number}f00')
    with pytest.raises(UserError, match='models--org--name: must have one snapshot, got abc, def;'):
        find(repository)
    (repository / 'refs').mkdir()
    (repository / 'refs/main').write_text('def')
    expected = load_weights(find(exported))
    for folder in (repository, snapshots[1]):
        jax.tree.map(np.testing.assert_array_equal, load_weights(find(folder)), expected)
        assert gpt_jax.load(folder).generate('One', max_new_tokens=2)
        identity = tokenizer.identify_tokenizer(str(folder))
        assert identity == tokenizer.identify_tokenizer(str(exported))
        words = tokenizer.make_tokenizer(str(folder), list)
        assert words.fingerprint == find(exported).tokenizer.fingerprint
        config = default_config() | {'init_from': str(folder)}
        config['task'] = config['task'] | {'kind': 'completion'}
        model = init_from.config_from_pretrained(config, print)['model']
        assert model['width'] == find(exported).model_config.width


def test_hugging_face_folder(run, published):
    out = published
    original, exported = find(run), find(out)
    text = 'naïve text'
    expected_ids = original.tokenizer.encode(text).tolist()
    assert exported.tokenizer.encode(text).tolist() == expected_ids
    assert exported.end_ids == original.end_ids
    jax.tree.map(np.testing.assert_array_equal, load_weights(exported), load_weights(original))
    with pytest.raises(UserError, match='has no steps'):
        find(out, step=1)
    path = out / 'generation_config.json'
    options = json.loads(path.read_text()) | {'repetition_penalty': 1.3, 'top_k': 9}
    path.write_text(json.dumps(options))
    messages = []
    pretrained.find_pretrained(str(out), step=None, log=messages.append)
    hint = 'ignored; use generation options instead'
    assert messages == [f'{path}: repetition_penalty: 1.3: {hint}']
    (out / 'tokenizer.json').unlink()
    with pytest.raises(UserError, match='must contain tokenizer'):
        find(out)


@pytest.mark.parametrize('name', ['config.json', 'generation_config.json'])
@pytest.mark.parametrize('value', ['x', {}, [['1']], [1, -1], -1, 1.5, 1e6, True, [None]])
def test_invalid_eos_token_id(published, name, value):
    (published / 'generation_config.json').unlink(missing_ok=True)
    content = json.loads((published / name).read_text()) if name == 'config.json' else {}
    (published / name).write_text(json.dumps(content | {'eos_token_id': value}))
    message = rf'{name}: eos_token_id: must be ids of 0 or more, got [^\n]+$'
    with pytest.raises(UserError, match=message):
        find(published)
    with pytest.raises(UserError, match=message):
        import_weights.import_weights(str(published), default_config(), published / 'run', print)


@pytest.mark.parametrize(('value', 'expected'), [(256, (255,)), ([256, 7], (7,)), ([9**9], (255,))])
def test_end_ids_beyond_the_vocabulary_are_ignored(published, value, expected):
    (published / 'generation_config.json').write_text(json.dumps({'eos_token_id': value}))
    lines = []
    found = pretrained.find_pretrained(str(published), log=lines.append)
    assert found.end_ids == expected  # of the file, or else of the tokenizer
    assert 'ignored, since the vocabulary has 256 ids' in lines[-1]


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
    """The exported run, which no test changes."""
    folder = tmp_path_factory.mktemp('exported') / 'model'
    export_weights.export_weights(run, folder, default_config(), 'float32', print)
    return folder


@pytest.fixture
def published(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / 'published')


def test_prefix_ids():
    import tokenizers

    bpe = tokenizer.train_bpe(['plain words and more words'] * 9, 280)
    assert (
        tokenizer.find_prefix_ids(bpe)
        == tokenizer.find_prefix_ids(tokenizer.make_tokenizer('bytes', lambda: ()))
        == ()
    )
    content = json.loads(bpe.content)
    content['post_processor'] = {
        'type': 'TemplateProcessing',
        'single': [
            {'SpecialToken': {'id': '<|endoftext|>', 'type_id': 0}},
            {'Sequence': {'id': 'A', 'type_id': 0}},
        ],
        'pair': [],
        'special_tokens': {
            '<|endoftext|>': {'id': '<|endoftext|>', 'ids': [0], 'tokens': ['<|endoftext|>']}
        },
    }
    assert tokenizers.Tokenizer.from_str(json.dumps(content)).encode('word').ids[0] == 0
    made = tokenizer.parse_tokenizer_json(json.dumps(content).encode(), 'here')
    assert tokenizer.find_prefix_ids(made) == (0,)
    assert made.encode('words')[0] != 0


def write_norm_adapter(folder, base, factor):
    """Write a PEFT folder that multiplies the norm before the head, and adapts nothing."""
    index = safetensors_files.index_folder(base)
    tensors = []
    for name in ('transformer.ln_f.weight', 'transformer.ln_f.bias'):
        value = factor * np.array(index.map(name))
        compute = functools.partial(np.asarray, value)
        tensors.append(LazyTensor(f'base_model.model.{name}', 'F32', value.shape, compute))
    safetensors_files.write_tensors(folder / 'adapter_model.safetensors', tensors)
    config = {'peft_type': 'LORA', 'modules_to_save': ['ln_f'], 'use_new_thing': None}
    config['base_model_name_or_path'] = str(base)
    (folder / 'adapter_config.json').write_text(json.dumps(config))


def test_an_adapters_folder_brings_its_tokenizer_template_and_whole_modules(exported, tmp_path):
    write_norm_adapter(tmp_path, exported, 2)
    base, tuned = (gpt_jax.load(folder, log=print) for folder in (exported, tmp_path))
    assert tuned.tokenizer.fingerprint == base.tokenizer.fingerprint
    # Logits are linear in the scale and the bias of the norm before the head.
    np.testing.assert_allclose(tuned.logits('x'), 2 * base.logits('x'), rtol=1e-5, atol=1e-5)
    # The tokenizer of the folder: the same bytes, but another one of them ends a text.
    content = json.loads((exported / 'tokenizer.json').read_text())
    content['added_tokens'].append(content['added_tokens'][0] | {'id': 0x21, 'content': '!'})
    (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'eos_token': '!'}))
    (tmp_path / 'chat_template.jinja').write_text(
        '{% for m in messages %}[{{ m.content }}]{% endfor %}'
    )
    tuned = gpt_jax.load(tmp_path, log=print)
    assert tuned.pretrained.end_ids == (0x21,)
    assert load_template(tuned) is not None
    # Without the tokenizer, the template is used with that of the base model.
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        (tmp_path / name).unlink()
    tuned = gpt_jax.load(tmp_path, log=print)
    assert tuned.tokenizer.fingerprint == base.tokenizer.fingerprint
    template = load_template(tuned)
    assert template.render([{'role': 'user', 'content': 'x'}], False) == '[x]'
    assert dict(template.tokens)['eos_token'] == '<|endoftext|>'
    (tmp_path / 'chat_template.jinja').unlink()
    assert load_template(gpt_jax.load(tmp_path, log=print)) is None


def load_template(model):
    return parse_chat_template(model.pretrained.template_files, 'here')


def add_token(folder, *, special=True):
    """Give the folder's tokenizer of 256 ids the token <pad> with the id 256."""
    content = json.loads((folder / 'tokenizer.json').read_text())
    token = content['added_tokens'][0] | {'id': 256, 'content': '<pad>', 'special': special}
    content['added_tokens'].append(token)
    (folder / 'tokenizer.json').write_text(json.dumps(content))


def test_a_tokenizer_may_have_added_tokens_beyond_the_embedding(published, tmp_path):
    add_token(published)
    lines = []
    workdir, out = tmp_path / 'imported', tmp_path / 'out'
    import_weights.import_weights(str(published), default_config(), workdir, lines.append)
    model = gpt_jax.load(published, log=lines.append)
    notice = 'has ids up to 256, but the model has only 256: the added tokens <pad> cannot be used'
    assert [notice in line for line in lines].count(True) == 2
    assert model.config.vocab_size == 256
    assert gpt_jax.load(workdir, log=print).generate('ab', max_new_tokens=1)
    with pytest.raises(UserError, match=r'must be below .* vocabulary size of 256, got 256'):
        model.generate('a<pad>b', max_new_tokens=1)
    export_weights.export_weights(workdir, out, default_config(), 'float32', print)
    assert json.loads((out / 'config.json').read_text())['vocab_size'] == 256


@pytest.mark.parametrize('special', [True, False])
def test_training_text_with_a_token_beyond_the_embedding_is_refused(published, tmp_path, special):
    """A special token in text is text; another added token is read as that token."""
    add_token(published, special=special)
    (tmp_path / 'text.txt').write_text('a<pad>b' * 20)
    config = default_config()
    config['model']['vocab_size'] = 256
    data = {'source': f'files:{tmp_path}/text.txt', 'holdout': 'tail', 'tokenizer': str(published)}
    config['data'] |= data | {'cache': str(tmp_path / 'cache')}
    if special:
        assert load_text_data(config, print).vocab_size == 256
        return
    with pytest.raises(UserError, match=r'contain the id 256, but the model has .* lacks <pad>'):
        load_text_data(config, print)


def test_special_tokens_in_a_prompt_are_read_unless_they_are_text(exported):
    model = gpt_jax.load(exported, log=print)
    text = 'a<|endoftext|>b'
    z_LV = model.logits(text)
    assert len(z_LV) == 3
    (read,) = model.generate(text, max_new_tokens=1)
    (spelled,) = model.generate(text, max_new_tokens=1, special_tokens_as_text=True)
    expected = np.asarray(jax.nn.log_softmax(z_LV[-1])).max()
    assert read.log_probabilities[0] == pytest.approx(expected, abs=1e-4)
    assert spelled.log_probabilities[0] != pytest.approx(expected, abs=1e-2)
    assert model.encode(text).tolist() == list(text.encode())
    assert model.perplexity(text).tokens == len(text)


def test_ids_that_the_model_lacks_are_refused(exported, tmp_path):
    """XLA would take the row of another id."""
    shutil.copy(exported / 'tokenizer.json', tmp_path)
    add_token(tmp_path)
    write_norm_adapter(tmp_path, exported, 1)
    lines = []
    model = gpt_jax.load(tmp_path, log=lines.append)
    assert any('has ids up to 256, but the base model has only 256' in line for line in lines)
    assert model.generate('ab', max_new_tokens=1)
    for call in (model.generate, model.logits):
        with pytest.raises(UserError, match=r'must be below .* vocabulary size of 256, got 256'):
            call('a<pad>b')
    request = ScoringRequest(np.int32([97]), np.int32([300]))
    with pytest.raises(UserError, match=r'pair 1: token ids must be below .*, got 300'):
        model.score([('a', 'b'), request])
