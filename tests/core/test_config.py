"""Config fields: one declaration gives defaults, checks, messages and the reference page."""

import dataclasses

import pytest

from gpt_jax import base_config
from gpt_jax.core.config import SECTIONS, default_config, describe_fields, parse_config, to_raw
from gpt_jax.core.config_fields import (
    POSITIVE,
    SHARE,
    UNIT,
    config_hash,
    diff_configs,
    select_run_fields,
)
from gpt_jax.core.errors import UserError


def parse(**fields):
    config = default_config()
    for name, value in fields.items():
        section, _, field = name.partition('__')
        config[section][field] = value
    return parse_config(config, vocab_size=256)


def test_defaults_are_valid_and_complete():
    config = parse()
    assert config.model.vocab_size == 256
    assert (config.model.kv_heads, config.model.head_dim, config.model.mlp_width) == (4, 32, 512)
    assert to_raw(base_config()) == default_config()


def test_every_field_has_documentation():
    fields = list(describe_fields())
    assert len(fields) == 3 + sum(len(dataclasses.fields(cls)) for cls in SECTIONS.values())
    for name, _, doc, _ in fields:
        assert doc.endswith('.'), name


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('model__layers', 0, 'config.model.layers: must be positive, got 0'),
        ('model__layers', 2.5, 'config.model.layers: must be int, got 2.5'),
        ('model__layers', True, 'config.model.layers: must be int, got True'),
        ('model__dropout', 1.0, 'config.model.dropout: must be in [0, 1), got 1.0'),
        ('model__dropout', float('nan'), 'config.model.dropout: must be finite, got nan'),
        ('model__heads', 3, 'config.model.heads: must divide the width 128, got 3'),
        ('model__kv_heads', 3, 'config.model.kv_heads: must divide the 4 heads, got 3'),
        ('model__vocab_size', 9, "config.model.vocab_size: must be at least the tokenizer's 256"),
        (
            'model__norm',
            'rsm',
            'config.model.norm: must be one of layer, rms, zero_centered_rms or a dotted path '
            "'package.module:name', got 'rsm'",
        ),
        (
            'model__attention_pattern',
            ['ful'],
            "must be one of full, window, got 'ful'; the nearest",
        ),
        ('model__window', 8, 'config.model.window: must be positive exactly when'),
        ('model__experts', 4, 'config.model.experts: must be positive exactly when'),
        ('optimizer__beta2', 1, 'config.optimizer.beta2: must be in [0, 1), got 1.0'),
        ('optimizer__warmup_fraction', -0.1, 'must be in [0, 1], got -0.1'),
        ('train__keep_steps', [0], 'config.train.keep_steps: must list positive integers'),
        ('train__keep_steps', ['a'], "config.train.keep_steps: must list int values, got 'a'"),
        ('train__early_stopping_patience', 2, 'must be 0 unless train.eval_every is positive'),
        ('train__branch_step', 2, 'must be positive exactly when train.branch_from is set'),
        ('finetune__targets', [], None),
        ('finetune__layer_decay', 0.0, 'config.finetune.layer_decay: must be in (0, 1], got 0.0'),
        ('suite__every', 5, 'config.suite.every: must be 0 without suite.tasks'),
        ('suite__num_fewshot', 65, 'config.suite.num_fewshot: must be in [0, 64], got 65'),
        ('mesh__fsdp', 0, 'config.mesh: only one axis can be 0 (automatic), got data and fsdp'),
        ('mesh__strategy', 'zero2', "got 'zero2'; the nearest is 'zero1'"),
        ('data__source', 'x.csv', "config.data.source: must be 'tfds:NAME[/CONFIG]', "),
        ('data__tokenizer', 'bpe:256', 'must be bpe:SIZE with an integer SIZE of 257 or more'),
        ('sweep__trials_per_process', 0, 'must be 1 or more, got 0'),
        ('benchmark__batch_sizes', [], 'config.benchmark.batch_sizes: must list positive integers'),
    ],
)
def test_bad_values_name_the_field(field, value, message):
    if message is None:
        parse(**{field: value})
        return
    with pytest.raises(UserError) as error:
        parse(**{field: value})
    assert message in str(error.value)
    assert str(error.value).startswith('config.')


def test_unknown_and_missing_fields_name_the_nearest():
    config = default_config()
    config['model']['widht'] = 3
    with pytest.raises(UserError, match=r"config\.model\.widht: no such field; .* 'width'"):
        parse_config(config, vocab_size=1)
    del config['model']['widht'], config['model']['width']
    with pytest.raises(UserError, match=r'config\.model\.width: missing'):
        parse_config(config, vocab_size=1)
    with pytest.raises(UserError, match=r"config\.modle: no such section; .* 'model'"):
        parse_config(default_config() | {'modle': {}}, vocab_size=1)


def test_a_dotted_path_is_accepted_where_functions_are_named():
    assert parse(model__norm='my_lab.norms:power_norm').model.norm == 'my_lab.norms:power_norm'
    with pytest.raises(UserError, match=r'config\.model\.remat: must be one of'):
        parse(model__remat='my_lab.remat:policy')


def test_ranges_describe_themselves():
    assert (str(POSITIVE), str(UNIT), str(SHARE)) == (
        'must be positive',
        'must be in [0, 1]',
        'must be in (0, 1]',
    )
    assert [UNIT.contains(x) for x in (0, 1, 1.1)] == [True, True, False]
    assert [SHARE.contains(x) for x in (0, 1)] == [False, True]


def test_the_hash_ignores_fields_that_may_change():
    config, other = default_config(), default_config()
    other['name'], other['train']['checkpoint_every'] = 'else', 1
    other['train']['log_every'], other['train']['eval_every'] = 1, 1
    assert config_hash(config) == config_hash(other)
    other['model']['width'] = 64
    assert config_hash(config) != config_hash(other)
    changes = diff_configs(select_run_fields(config), select_run_fields(other))
    assert changes == ['model.width: 128 -> 64']


def test_fields_that_older_runs_lack_do_not_change_the_hash_at_their_defaults():
    config = default_config()
    assert config_hash(config) == '2e5d4cc00c67cf6d'  # without the fields that came later
    older = {name: dict(section) for name, section in config.items() if isinstance(section, dict)}
    del older['data']['separator'], older['model']['rotary_magnitude']
    newer = {name: config[name] for name in older}
    assert diff_configs(select_run_fields(older), select_run_fields(newer)) == []
    config['data']['separator'] = '|'
    assert config_hash(config) != '2e5d4cc00c67cf6d'


def test_paths_are_expanded_and_hashed_as_written(monkeypatch):
    monkeypatch.setenv('HOME', '/home/ada')
    config = default_config()
    config['init_from'] = '~/runs/a b'
    config['data'] |= {'tokenizer': '~/words', 'cache': '~', 'source': 'files:~/x/*.txt'}
    config['train'] |= {'branch_from': '~/trunk', 'branch_step': 3}
    config['suite']['tasks'] = ['pairs', '~/task.py']
    checked = parse_config(config, vocab_size=1)
    assert checked.init_from == '/home/ada/runs/a b'
    assert (checked.data.tokenizer, checked.data.cache) == ('/home/ada/words', '/home/ada')
    assert checked.train.branch_from == '/home/ada/trunk'
    assert checked.suite.tasks == ('pairs', '/home/ada/task.py')
    assert select_run_fields(config)['init_from'] == '~/runs/a b'
    config['init_from'] = '~nobody_of_this_name/x'
    with pytest.raises(UserError, match=r'^config\.init_from=~nobody.*existing user, got ~no'):
        parse_config(config, vocab_size=1)
