"""Do weights from elsewhere become a run like any other: scored, trained on from, spread over devices, given back?"""

import copy
import json
import runpy
import shutil
import sys

import jax
import numpy as np
import pytest

import gpt_jax
from configs import base
from gpt_jax import assemble, overrides, trees
from gpt_jax.data import tokenizer
from gpt_jax.errors import UserError
from gpt_jax.interop import config_file, tensors, tokenizer_files
from gpt_jax.modes import (
    adopt,
    dialogue,
    evaluate,
    export_adapters,
    export_weights,
    import_weights,
    summary,
    train,
    warm_start,
)
from gpt_jax.scaling import records
from gpt_jax.train import checkpoint, manifest
from tests import program
from tests.interop import golden, small_models

DEFAULTS = overrides.plain(base.get_config())
RUN = {
    'data.holdout': 'tail', 'train.batch': 8, 'train.steps': 3, 'train.tensorboard': False,
    'train.evaluate_tokens': 200, 'mesh.data': 1, 'model.attention_chunk': 0,
}  # fmt: skip


def ignore(_):
    pass


def folder(path, name, vocab=256, made=None):
    """A folder like the hub's, of a small model and a tokenizer."""
    kept = golden.read(name)
    shapes = {one: [vocab if size == 31 else size for size in shape] for one, shape in kept['shapes'].items()}
    small_models.write(path, kept['config'] | {'vocab_size': vocab, 'eos_token_id': 255}, shapes)
    tokenizer_files.write(path, tokenizer_files.made(made or tokenizer.make('bytes', list), 64))
    return path


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    """(the folder there, the run's folder here), by the command line."""
    there = folder(tmp_path_factory.mktemp('there') / 'small', 'qwen2')
    workdir = tmp_path_factory.mktemp('runs') / 'small'
    _, err = program.run([sys.executable, 'run.py', '--mode=import', f'--source={there}', f'--workdir={workdir}'])
    assert f'{workdir}: imported' in err
    return there, workdir


def config_of(workdir, source, **fields):
    """The config of the file that the import left, with this text and small numbers."""
    config = overrides.plain(runpy.run_path(str(workdir / 'config.py'))['get_config']())
    for key, value in (RUN | {'data.source': source} | fields).items():
        section, _, field = key.rpartition('.')
        (config[section] if section else config)[field] = value
    return config


def weights_of(run, vocab=256):
    """The newest weights of a run by path."""
    meta = manifest.newest_meta(run / 'checkpoints')
    settings = assemble.settings(meta['config'], vocab)
    step = export_weights._newest(run / 'checkpoints', ignore)
    return export_weights._params(run, meta['config'], settings, step, ignore)


def test_the_folder_is_a_runs(imported):
    there, workdir = imported
    config = json.loads((workdir / 'config.json').read_text())
    assert config['name'] == 'small'
    assert config['data']['tokenizer'] == str(workdir / 'tokenizer')
    assert tokenizer.make(config['data']['tokenizer'], list).encode('é').tolist() == [0xC3, 0xA9]
    ours = small_models.read(there)
    assert assemble.settings(config, 256).model == ours.model
    found = weights_of(workdir)
    assert {path: value.tobytes() for path, value in found.items()} == {
        path: ours.weight(path).tobytes() for path in ours.letters
    }  # fmt: skip
    written = config_of(workdir, 'files:x')
    assert written['model'] == config['model'] | {'attention_chunk': 0}
    assert written['init_from'] == str(workdir)


def test_peft_is_told_where_an_imported_base_came_from(imported):
    there, workdir = imported
    said = []
    assert export_adapters.base_name(str(workdir), said.append) == str(there)
    assert not said
    assert export_adapters.base_name('gpt2', said.append) == 'gpt2'
    assert not said


def test_what_came_in_goes_out_by_the_command_line(imported, tmp_path):
    there, workdir = imported
    out, _ = program.run(
        [sys.executable, 'run.py', '--mode=export', f'--checkpoint={workdir}', f'--output={tmp_path / "out"}']
    )
    assert json.loads(out)['model_type'] == 'qwen2'
    before, after = tensors.find(there), tensors.find(tmp_path / 'out')
    assert {one: after.raw(one).tobytes() for one in after.where} == {
        one: before.raw(one).tobytes() for one in before.where
    }  # fmt: skip
    for name in ('tokenizer.json', 'tokenizer_config.json', 'generation_config.json'):
        assert (tmp_path / 'out' / name).read_bytes() == (there / name).read_bytes()
    written = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert (written['eos_token_id'], written['layer_types']) == (255, ['full_attention', 'sliding_attention'])


def test_it_is_scored_and_trained_on_from(imported, tmp_path):
    there, workdir = imported
    text = tmp_path / 'text.txt'
    text.write_text('to be or not to be, that is the question. ' * 200)
    config = config_of(workdir, f'files:{text}')
    score = evaluate.evaluate(config, workdir, ignore)
    assert score['step'] == 0
    said = []
    done = train.train(config, tmp_path / 'tuned', say=said.append, trial=None)
    assert any(f'begins with the weights of {workdir} at step 0' in line for line in said)
    assert (done['role'], done['init_from'], done['steps']) == ('tuned', str(workdir), 3)
    assert done['validation_loss'] < score['validation_loss']
    before, after = weights_of(workdir), weights_of(tmp_path / 'tuned')
    moved = [np.abs(after[path] - before[path]).max() for path in before]
    assert min(moved) > 0
    assert max(moved) < 1e-3  # three small steps
    again = evaluate.evaluate(config, tmp_path / 'tuned', ignore)
    assert again['validation_loss'] == done['validation_loss']
    export_weights.export(tmp_path / 'tuned', tmp_path / 'out', DEFAULTS, 'bfloat16', ignore)
    assert (tmp_path / 'out/tokenizer_config.json').read_bytes() == (there / 'tokenizer_config.json').read_bytes()
    own = json.dumps(json.loads((there / 'tokenizer.json').read_text()), indent=1)  # not what came: another
    (tmp_path / 'tuned/tokenizer.json').write_text(own)
    export_weights.export(tmp_path / 'tuned', tmp_path / 'other', DEFAULTS, 'bfloat16', ignore)
    assert (tmp_path / 'other/tokenizer.json').read_text() == own


def test_a_run_keeps_the_chat_template_that_it_was_taught_with(tmp_path):
    """Its folder needs no other: neither to talk with it, nor to be taught more."""
    there = folder(tmp_path / 'there', 'qwen2')
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    (there / 'chat_template.jinja').write_text(template + '{% if add_generation_prompt %}<assistant>{% endif %}')
    (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps({'q': f'{n}?', 'a': 'no'}) + '\n' for n in range(20)))
    config = copy.deepcopy(DEFAULTS)
    config['init_from'] = str(there)
    config['task'] |= {'kind': 'answer', 'source': f'files:{tmp_path}/rows.jsonl', 'prompt': '{q}', 'answer': '{a}',
                       'chat': True}  # fmt: skip
    config['train'] |= {'batch': 2, 'steps': 2, 'tensorboard': False, 'keep_best': True, 'evaluate_every': 1}
    config['mesh'] |= {'data': 1}
    adopted = adopt.adopt(config, ignore)
    train.train(adopted, tmp_path / 'run', say=ignore, trial=None)
    shutil.rmtree(there)
    for run in (tmp_path / 'run', tmp_path / 'run' / 'best'):
        model = gpt_jax.load(run, say=ignore)
        talk = dialogue.of(str(run), model)
        asked = []
        model.write = lambda prompts, _, asked=asked, **__: asked.append(prompts[0].text) or iter(())
        talk.answer('7?', {'max_new_tokens': 2})
        assert asked == ['<user>7?<|endoftext|><assistant>']


@pytest.mark.parametrize('mesh', [
    {'strategy': 'fsdp', 'data': 1, 'fsdp': 8}, {'strategy': 'fsdp', 'data': 2, 'fsdp': 4},
    {'strategy': 'replicated', 'data': 8, 'fsdp': 1},
])  # fmt: skip
def test_any_mesh_takes_the_weights(imported, mesh):
    there, workdir = imported
    config = config_of(workdir, 'files:x', **{f'mesh.{key}': value for key, value in mesh.items()})
    settings = assemble.settings(config, 256)
    program_ = assemble.build(settings)
    state = warm_start.state(settings, program_, ignore)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(program_.abstract_state), strict=True):
        assert leaf.sharding == wanted.sharding
    ours = small_models.read(there)
    spread = 0
    for path, leaf in zip(trees.names(state.params), jax.tree.leaves(state.params), strict=True):
        assert np.asarray(leaf).tobytes() == ours.weight(path).tobytes()
        spread += leaf.addressable_shards[0].data.size < leaf.size
    assert (spread > 5) == (mesh['strategy'] == 'fsdp')
    assert int(state.step) == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.optimizer))


@pytest.mark.parametrize(('fields', 'message'), [
    ({'model.width': 48, 'model.head_dim': 12}, r'another model \(model\.head_dim: 6 -> 12; model\.width: 24 -> 48'),
    ({'model.qkv_bias': False}, 'model.qkv_bias: True -> False'),
    ({'model.norm_epsilon': 1e-5}, 'model.norm_epsilon: 1e-06 -> 1e-05'),
    ({'init_from': '/gone'}, '/gone holds no checkpoint; name the folder of a run'),
])  # fmt: skip
def test_weights_of_another_model_are_refused(imported, fields, message):
    _, workdir = imported
    settings = assemble.settings(config_of(workdir, 'files:x', **fields), 256)
    with pytest.raises(UserError, match=rf'config\.init_from: .*{message}'):
        warm_start.state(settings, assemble.build(settings), ignore)


def test_how_it_is_computed_may_change(imported):
    _, workdir = imported
    fields = {'model.context': 32, 'model.dropout': 0.1, 'model.scan_layers': True, 'model.init_std': 1.0}
    settings = assemble.settings(config_of(workdir, 'files:x', **fields), 256)
    assert int(warm_start.state(settings, assemble.build(settings), ignore).step) == 0


def test_a_tuned_run_lies_on_no_law(settings):
    """Nor does its branch; a branch begins with its trunk, which began with the weights."""
    tuned = settings({'init_from': 'runs/other', 'train.branch_from': 'a/trunk', 'train.branch_step': 3})
    assert summary._role(tuned) == 'tuned'
    kept, left_out = records.fittable([{'name': 'a', 'status': 'done', 'role': 'tuned', 'x': 1}], ['x'])
    assert (kept, len(left_out)) == ([], 1)
    assert "another run's weights" in left_out[0]['reason']


def test_a_config_file_is_python_whatever_the_source_is_called(imported, tmp_path):
    _, workdir = imported
    model = json.loads((workdir / 'config.json').read_text())['model']
    for source in ('a\\N', '"""\nraise SystemExit\n"""', "it's", 'a\\'):
        text = config_file.text('x_tuned', model, DEFAULTS['model'], source, workdir, workdir / 'tokenizer')
        (tmp_path / 'config.py').write_text(text)
        made = overrides.plain(runpy.run_path(str(tmp_path / 'config.py'))['get_config']())
        assert made['model'] == model


def test_a_folder_that_holds_a_run_is_left_alone(imported):
    there, workdir = imported
    with pytest.raises(UserError, match='holds a run already'):
        import_weights.import_weights(str(there), DEFAULTS, workdir, ignore)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    there = folder(tmp_path / 'small', 'gpt2', vocab=255)
    with pytest.raises(UserError, match=r'its tokenizer has ids up to 255, and config\.json has vocab_size 255'):
        import_weights.import_weights(str(there), DEFAULTS, tmp_path / 'run', ignore)
    assert not (tmp_path / 'run').exists()


def test_weights_without_a_tokenizer(tmp_path):
    there = folder(tmp_path / 'small', 'openai-gpt')
    for name in ('tokenizer.json', 'tokenizer_config.json', 'generation_config.json'):
        (there / name).unlink()
    said = []
    import_weights.import_weights(str(there), DEFAULTS, tmp_path / 'run', said.append)
    assert any('holds neither tokenizer.json nor vocab.json' in line for line in said)
    done = export_weights.export(tmp_path / 'run', tmp_path / 'out', DEFAULTS, 'float32', said.append)
    assert any('holds no tokenizer' in line for line in said)
    assert (done['model_type'], done['files']) == (
        'openai-gpt', ['config.json', 'generation_config.json', 'model.safetensors'],
    )  # fmt: skip


def test_a_run_of_ours_with_a_padded_vocabulary_goes_out(tmp_path):
    (tmp_path / 'text.txt').write_text(''.join(f'{n} to the {n * n}, ' for n in range(2000)))
    config = copy.deepcopy(DEFAULTS)
    config['model'] |= {'layers': 1, 'width': 16, 'heads': 2, 'context': 16, 'vocab_multiple': 128}
    config['data'] |= {'source': f'files:{tmp_path / "text.txt"}', 'holdout': 'tail', 'tokenizer': 'bpe:300'}
    config['mesh'] |= {'data': 1}
    state = assemble.build(assemble.settings(config, 300)).init()
    with checkpoint.Checkpoints(tmp_path / 'run' / 'checkpoints', keep=1) as checkpoints:
        checkpoints.save(7, state, {'config': config})
    done = export_weights.export(tmp_path / 'run', tmp_path / 'out', DEFAULTS, 'float32', ignore)
    assert (done['model_type'], done['step']) == ('gpt2', 7)
    ours, trained = small_models.read(tmp_path / 'out'), weights_of(tmp_path / 'run', 300)
    assert trained['embedding/table_VD'].shape == (384, 16)
    assert ours.model.vocab_size == 300
    assert np.array_equal(ours.weight('embedding/table_VD'), trained['embedding/table_VD'][:300])
    made = tokenizer.make(str(tmp_path / 'out'), list)
    assert (made.vocab_size, made.end_of_document) == (300, 0)


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--mode=import'], '--mode=import: wants --source='),
    (['--mode=export', '--checkpoint=x'], '--mode=export: wants --output='),
    (['--mode=import', '--config=configs/gpt_tiny.py'], '--mode=import: takes no --config'),
    (['--mode=import', '--config.model.width=3'], '--mode=import: takes no --config'),
    (['--mode', 'import', '--source=a/b/c'], '--source=a/b/c: no such folder'),
    (['--mode=export', '--checkpoint=gone', '--output=x'], '--checkpoint=gone: holds no checkpoint'),
    (['--config=configs/gpt_tiny.py', '--source=x'], '--source: belongs to --mode=import'),
    (['--mode=train'], 'say which model'),
])  # fmt: skip
def test_flags_are_checked_before_any_work(arguments, message):
    _, err = program.run([sys.executable, 'run.py', *arguments], code=2)
    assert err.startswith(f'run.py: {message}')
    assert err.count('\n') == 1


@pytest.mark.parametrize(('source', 'name'), [
    ('openai-community/gpt2', 'gpt2'), ('org/a-b@main', 'a-b'), ('/x/.cache/m-1.5/', 'm-1.5'), ('x/..hidden', 'hidden'),
])  # fmt: skip
def test_a_run_is_named_after_its_source(source, name):
    assert import_weights.name(source) == name


def test_a_folder_whose_name_has_an_at_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert import_weights.name('me@host/hf_gpt2') == 'me'  # as long as it can be a name of the hub alone
    (tmp_path / 'me@host' / 'hf_gpt2').mkdir(parents=True)
    (tmp_path / 'gpt2@old').mkdir()
    assert import_weights.name('me@host/hf_gpt2') == 'hf_gpt2'
    assert import_weights.name('gpt2@old') == 'gpt2_old'
