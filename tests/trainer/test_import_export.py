"""Imported weights: evaluated, trained on from, sharded, and exported again."""

import copy
import dataclasses
import json
import runpy
import shutil
import sys

import jax
import numpy as np
import pytest

import gpt_jax
from gpt_jax import base_config
from gpt_jax.core import trees
from gpt_jax.core.config import parse_config, to_raw
from gpt_jax.core.config_fields import LATER_FIELDS
from gpt_jax.core.errors import UserError
from gpt_jax.data.tokenizer import make_tokenizer
from gpt_jax.inference import chat_session
from gpt_jax.interop import safetensors_files, tokenizer_files
from gpt_jax.scaling import rows
from gpt_jax.train import build, checkpoint, manifest
from gpt_jax.trainer import evaluate, export_weights, import_weights, init_from, summary, trainer
from gpt_jax.trainer.init_from import load_pretrained_state
from tests import in_process, program
from tests.interop import golden, small_models

DEFAULTS = to_raw(base_config())
RUN = {
    'data.holdout': 'tail',
    'train.batch_size': 8,
    'train.steps': 3,
    'train.tensorboard': False,
    'train.eval_tokens': 200,
    'mesh.data': 1,
    'model.attention_chunk': 0,
}


def ignore(_):
    """A LogFn that drops its lines."""


def write_folder(path, name, vocab=256, tokenizer=None):
    """Write a folder as on the Hugging Face hub, with a small model and a tokenizer."""
    fixture = golden.read_golden(name)
    shapes = {
        tensor: [vocab if size == 31 else size for size in shape]
        for tensor, shape in fixture['shapes'].items()
    }
    small_models.write_folder(
        path, fixture['config'] | {'vocab_size': vocab, 'eos_token_id': 255}, shapes
    )
    tokenizer = tokenizer or make_tokenizer('bytes', list)
    tokenizer_files.write_files(path, tokenizer_files.make_files(tokenizer, 64))
    return path


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    """(the Hugging Face folder, the run's folder) of an import by the command line."""
    there = write_folder(tmp_path_factory.mktemp('there') / 'small', 'qwen2')
    workdir = tmp_path_factory.mktemp('runs') / 'small'
    command = [sys.executable, '-m', 'gpt_jax', 'import', str(there), f'--workdir={workdir}']
    _, err = in_process.run(command)
    assert f'{workdir}: imported' in err
    return there, workdir


def load_config(workdir, source, **fields):
    """The imported run's config.py, with this text and small numbers."""
    config = to_raw(runpy.run_path(str(workdir / 'config.py'))['get_config']())
    for key, value in (RUN | {'data.source': source} | fields).items():
        section, _, field = key.rpartition('.')
        (config[section] if section else config)[field] = value
    return config


def load_weights(run, vocab=256):
    """The newest weights of a run by path."""
    meta = manifest.read_newest_meta(run / 'checkpoints')
    config = parse_config(meta['config'], vocab)
    step = export_weights._find_newest_step(run / 'checkpoints', ignore)
    return export_weights._load_params(run, meta['config'], config, step, ignore)


def test_import_writes_a_run_folder(imported):
    there, workdir = imported
    config = json.loads((workdir / 'config.json').read_text())
    assert config['name'] == 'small'
    assert config['data']['tokenizer'] == str(workdir / 'tokenizer')
    ids = make_tokenizer(config['data']['tokenizer'], list).encode('é').tolist()
    assert ids == [0xC3, 0xA9]
    ours = small_models.import_model(there)
    assert parse_config(config, 256).model == ours.config
    weights = load_weights(workdir)
    assert {path: value.tobytes() for path, value in weights.items()} == {
        path: ours.read_weight(path).tobytes() for path in ours.letters
    }
    written = load_config(workdir, 'files:x')
    assert written['model'] == config['model'] | {'attention_chunk': 0}
    assert written['init_from'] == str(workdir)


def test_peft_base_of_an_import_is_its_source(imported):
    there, workdir = imported
    lines = []
    assert export_weights.peft_base_name(str(workdir), lines.append) == str(there)
    assert not lines
    assert export_weights.peft_base_name('gpt2', lines.append) == 'gpt2'
    assert not lines


def test_export_restores_the_imported_folder(imported, tmp_path):
    there, workdir = imported
    command = ['-m', 'gpt_jax', 'export', str(workdir), str(tmp_path / 'out')]
    out, _ = in_process.run([sys.executable, *command])
    assert json.loads(out)['model_type'] == 'qwen2'
    before, after = (
        safetensors_files.index_folder(there),
        safetensors_files.index_folder(tmp_path / 'out'),
    )
    assert {name: after.map(name).tobytes() for name in after.entries} == {
        name: before.map(name).tobytes() for name in before.entries
    }
    for name in ('tokenizer.json', 'tokenizer_config.json', 'generation_config.json'):
        assert (tmp_path / 'out' / name).read_bytes() == (there / name).read_bytes()
    written = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert written['eos_token_id'] == 255
    assert written['layer_types'] == ['full_attention', 'sliding_attention']


def test_import_is_evaluated_and_trained_on_from(imported, tmp_path):
    there, workdir = imported
    text = tmp_path / 'text.txt'
    text.write_text('to be or not to be, that is the question. ' * 200)
    config = load_config(workdir, f'files:{text}')
    score = evaluate.evaluate_run(config, workdir, ignore)
    assert score['step'] == 0
    lines = []
    done = trainer.train(config, tmp_path / 'tuned', log=lines.append, trial=None)
    assert any(f'begins with the weights of {workdir} at step 0' in line for line in lines)
    assert (done['role'], done['init_from'], done['steps']) == ('finetuned', str(workdir), 3)
    assert done['validation_loss'] < score['validation_loss']
    before, after = load_weights(workdir), load_weights(tmp_path / 'tuned')
    moved = [np.abs(after[path] - before[path]).max() for path in before]
    assert min(moved) > 0
    assert max(moved) < 1e-3  # three small steps
    again = evaluate.evaluate_run(config, tmp_path / 'tuned', ignore)
    assert again['validation_loss'] == done['validation_loss']
    export_weights.export_weights(
        tmp_path / 'tuned', tmp_path / 'out', DEFAULTS, 'bfloat16', ignore
    )
    assert (tmp_path / 'out/tokenizer_config.json').read_bytes() == (
        there / 'tokenizer_config.json'
    ).read_bytes()
    # With another tokenizer than the import's, the run's own is exported.
    own = json.dumps(json.loads((there / 'tokenizer.json').read_text()), indent=1)
    (tmp_path / 'tuned/tokenizer.json').write_text(own)
    export_weights.export_weights(
        tmp_path / 'tuned', tmp_path / 'other', DEFAULTS, 'bfloat16', ignore
    )
    assert (tmp_path / 'other/tokenizer.json').read_text() == own


def test_run_saves_the_chat_template_of_its_tokenizer(tmp_path):
    """A dialogue with the run needs no other folder."""
    there = write_folder(tmp_path / 'there', 'qwen2')
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    (there / 'chat_template.jinja').write_text(
        template + '{% if add_generation_prompt %}<assistant>{% endif %}'
    )
    (tmp_path / 'rows.jsonl').write_text(
        ''.join(json.dumps({'q': f'{n}?', 'a': 'no'}) + '\n' for n in range(20))
    )
    config = copy.deepcopy(DEFAULTS)
    config['init_from'] = str(there)
    config['task'] |= {
        'kind': 'completion',
        'source': f'files:{tmp_path}/rows.jsonl',
        'prompt': '{q}',
        'answer': '{a}',
        'chat': True,
    }
    config['train'] |= {
        'batch_size': 2,
        'steps': 2,
        'tensorboard': False,
        'keep_best': True,
        'eval_every': 1,
    }
    config['mesh'] |= {'data': 1}
    config = init_from.config_from_pretrained(config, ignore)
    trainer.train(config, tmp_path / 'run', log=ignore, trial=None)
    shutil.rmtree(there)
    for run in (tmp_path / 'run', tmp_path / 'run' / 'best'):
        model = gpt_jax.load(run, log=ignore)
        prompts = []

        def record(tokenized_prompts, _, prompts=prompts, **__):
            prompts.append(tokenized_prompts[0].text)
            return iter(())

        model.stream_chunks = record
        chat_session.load_dialogue(str(run), model).answer('7?', {'max_new_tokens': 2})
        assert prompts == ['<user>7?<|endoftext|><assistant>']


@pytest.mark.parametrize(
    'mesh',
    [
        {'strategy': 'fsdp', 'data': 1, 'fsdp': 8},
        {'strategy': 'fsdp', 'data': 2, 'fsdp': 4},
        {'strategy': 'replicated', 'data': 8, 'fsdp': 1},
    ],
)
def test_weights_load_on_any_mesh(imported, mesh):
    there, workdir = imported
    fields = {f'mesh.{key}': value for key, value in mesh.items()}
    raw_config = load_config(workdir, 'files:x', **fields)
    config = parse_config(raw_config, 256)
    parts = build.build_trainer_parts(config)
    state = load_pretrained_state(config, parts, ignore)
    for leaf, abstract in zip(
        jax.tree.leaves(state), jax.tree.leaves(parts.abstract_state), strict=True
    ):
        assert leaf.sharding == abstract.sharding
    ours = small_models.import_model(there)
    sharded = 0
    for path, leaf in zip(
        trees.name_leaves(state.params), jax.tree.leaves(state.params), strict=True
    ):
        assert np.asarray(leaf).tobytes() == ours.read_weight(path).tobytes()
        sharded += leaf.addressable_shards[0].data.size < leaf.size
    assert (sharded > 5) == (mesh['strategy'] == 'fsdp')
    assert int(state.step) == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def test_a_run_that_lacks_later_fields_holds_the_same_model():
    config = parse_config(copy.deepcopy(DEFAULTS), 256)
    later = {key.removeprefix('model.') for key in LATER_FIELDS}
    older = {key: value for key, value in DEFAULTS['model'].items() if key not in later}
    assert init_from.model_differences(older, dataclasses.asdict(config.model)) == []


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            {'model.width': 48, 'model.head_dim': 12},
            r'another model \(model\.attention_scale_dim: 6 -> 12; model\.head_dim: 6 -> 12; '
            r'model\.width: 24 -> 48',
        ),
        ({'model.qkv_bias': False}, 'model.qkv_bias: True -> False'),
        ({'model.norm_epsilon': 1e-5}, 'model.norm_epsilon: 1e-06 -> 1e-05'),
        ({'init_from': '/gone'}, '/gone holds no checkpoint; name the folder of a run'),
    ],
)
def test_weights_of_another_model_are_rejected(imported, fields, message):
    _, workdir = imported
    config = parse_config(load_config(workdir, 'files:x', **fields), 256)
    with pytest.raises(UserError, match=rf'config\.init_from: .*{message}'):
        load_pretrained_state(config, build.build_trainer_parts(config), ignore)


def test_fields_that_are_in_no_weight_may_change(imported):
    _, workdir = imported
    fields = {
        'model.context': 32,
        'model.dropout': 0.1,
        'model.scan_layers': True,
        'model.init_std': 1.0,
    }
    config = parse_config(load_config(workdir, 'files:x', **fields), 256)
    state = load_pretrained_state(config, build.build_trainer_parts(config), ignore)
    assert int(state.step) == 0


def test_finetuned_runs_are_excluded_from_fits(settings):
    """So are their branches, since the trunk began with pretrained weights."""
    tuned = settings(
        {'init_from': 'runs/other', 'train.branch_from': 'a/trunk', 'train.branch_step': 3}
    )
    assert summary._find_role(tuned) == 'finetuned'
    fittable, left_out = rows.split_fittable(
        [{'name': 'a', 'status': 'done', 'role': 'finetuned', 'x': 1}], ['x']
    )
    assert (fittable, len(left_out)) == ([], 1)
    assert "another run's weights" in left_out[0]['reason']


def test_config_file_is_valid_python_for_any_source_name(imported, tmp_path):
    _, workdir = imported
    model = json.loads((workdir / 'config.json').read_text())['model']
    for source in ('a\\N', '"""\nraise SystemExit\n"""', "it's", 'a\\'):
        text = import_weights.render_config(
            'x_tuned', model, DEFAULTS['model'], source, workdir, workdir / 'tokenizer'
        )
        (tmp_path / 'config.py').write_text(text)
        config = to_raw(runpy.run_path(str(tmp_path / 'config.py'))['get_config']())
        assert config['model'] == model


def test_folder_of_a_run_is_not_overwritten(imported):
    there, workdir = imported
    with pytest.raises(UserError, match='holds a run already'):
        import_weights.import_weights(str(there), DEFAULTS, workdir, ignore)


def test_tokenizer_larger_than_the_model_is_rejected(tmp_path):
    there = write_folder(tmp_path / 'small', 'gpt2', vocab=254)
    with pytest.raises(
        UserError, match='its tokenizer has ids up to 255, but the model has vocab_size 254'
    ):
        import_weights.import_weights(str(there), DEFAULTS, tmp_path / 'run', ignore)
    assert not (tmp_path / 'run').exists()


def test_weights_without_a_tokenizer(tmp_path):
    there = write_folder(tmp_path / 'small', 'openai-gpt')
    for name in ('tokenizer.json', 'tokenizer_config.json', 'generation_config.json'):
        (there / name).unlink()
    lines = []
    import_weights.import_weights(str(there), DEFAULTS, tmp_path / 'run', lines.append)
    assert any('must contain tokenizer.json, or vocab.json' in line for line in lines)
    done = export_weights.export_weights(
        tmp_path / 'run', tmp_path / 'out', DEFAULTS, 'float32', lines.append
    )
    assert any('holds no tokenizer' in line for line in lines)
    assert (done['model_type'], done['files']) == (
        'openai-gpt',
        ['config.json', 'generation_config.json', 'model.safetensors'],
    )


def test_padding_of_the_vocabulary_is_not_exported(tmp_path):
    (tmp_path / 'text.txt').write_text(''.join(f'{n} to the {n * n}, ' for n in range(2000)))
    config = copy.deepcopy(DEFAULTS)
    config['model'] |= {'layers': 1, 'width': 16, 'heads': 2, 'context': 16, 'vocab_multiple': 128}
    config['data'] |= {
        'source': f'files:{tmp_path / "text.txt"}',
        'holdout': 'tail',
        'tokenizer': 'bpe:300',
    }
    config['mesh'] |= {'data': 1}
    state = build.build_trainer_parts(parse_config(config, 300)).init_state()
    with checkpoint.CheckpointManager(
        tmp_path / 'run' / 'checkpoints', max_to_keep=1
    ) as checkpoints:
        checkpoints.save(7, state, {'config': config})
    done = export_weights.export_weights(
        tmp_path / 'run', tmp_path / 'out', DEFAULTS, 'float32', ignore
    )
    assert (done['model_type'], done['step']) == ('gpt2', 7)
    ours, trained = small_models.import_model(tmp_path / 'out'), load_weights(tmp_path / 'run', 300)
    assert trained['embedding/table_VD'].shape == (384, 16)
    assert ours.config.vocab_size == 300
    assert np.array_equal(
        ours.read_weight('embedding/table_VD'), trained['embedding/table_VD'][:300]
    )
    tokenizer = make_tokenizer(str(tmp_path / 'out'), list)
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (300, 0)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['import', 'a/b/c'], 'SOURCE=a/b/c: neither a folder nor a name'),
        (['export', 'gone', 'x'], 'gone: holds no checkpoint'),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    runner = program if arguments[0] == 'import' else in_process  # one of them in its own process
    _, err = runner.run([sys.executable, '-m', 'gpt_jax', *arguments], code=2)
    assert err.startswith(f'gpt-jax {arguments[0]}: {message}')
    assert err.count('\n') == 1


@pytest.mark.parametrize(
    ('source', 'name'),
    [
        ('openai-community/gpt2', 'gpt2'),
        ('org/a-b@main', 'a-b'),
        ('/x/.cache/m-1.5/', 'm-1.5'),
        ('x/..hidden', 'hidden'),
    ],
)
def test_run_is_named_after_its_source(source, name):
    assert import_weights.make_run_name(source) == name


def test_at_sign_in_a_folder_name_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Without such a folder, it can only be a name on the hub.
    assert import_weights.make_run_name('me@host/hf_gpt2') == 'me'
    (tmp_path / 'me@host' / 'hf_gpt2').mkdir(parents=True)
    (tmp_path / 'gpt2@old').mkdir()
    assert import_weights.make_run_name('me@host/hf_gpt2') == 'hf_gpt2'
    assert import_weights.make_run_name('gpt2@old') == 'gpt2_old'
