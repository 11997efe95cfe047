"""Parameters and tokens of a config are those of the run that it describes."""

from pathlib import Path

import pytest

from gpt_jax.core import config_cli, config_fields, model_counts
from gpt_jax.core.config import parse_config, to_raw
from gpt_jax.core.errors import UserError
from gpt_jax.scaling.plan import planned_model


def write_config(folder: Path, text: str) -> Path:
    path = folder / 'c.py'
    head = 'from gpt_jax import base_config\ndef get_config():\n    config = base_config()\n'
    path.write_text(f'{head}    {text}\n    return config\n')
    return path


@pytest.mark.parametrize(
    ('path', 'trial'), [('configs/gpt_tiny.py', ''), ('configs/isoflop_cpu.py', '1e12-2x48')]
)
@pytest.mark.parametrize('count', ['total', 'non_embedding', 'without_positions'])
def test_counts_equal_those_of_the_run(path, trial, count):
    planned = planned_model.read_planned_run(path, count=count, trial=trial)
    module = __import__(path.removesuffix('.py').replace('/', '.'), fromlist=['get_config'])
    config = to_raw(module.get_config())
    config = config_cli.expand_trials(config)[trial] if trial else config
    settings = parse_config(config, vocab_size=256)
    assert planned.params == model_counts.parameters(settings.model)[count]
    assert planned.tokens == settings.steps * settings.tokens_per_step
    assert planned.config_hash == config_fields.config_hash(config)


@pytest.mark.parametrize(
    'text',
    [
        "config.model.norm = 'rms'",
        "config.model.block = 'parallel'",
        'config.model.final_norm = False',
        "config.model.update(feedforward='gated', bias=False, kv_heads=1, position='rotary')",
        "config.model.update(feedforward='experts', experts=4)",
    ],
)
def test_every_architecture_is_counted(tmp_path, text):
    path = write_config(tmp_path, text)
    raw_config = config_cli.read_config_file(path)
    counts = model_counts.parameters(parse_config(raw_config, vocab_size=256).model)
    for count in ('total', 'non_embedding', 'active'):
        assert planned_model.read_planned_run(str(path), count=count).params == counts[count]


@pytest.mark.parametrize(
    ('text', 'trial', 'message'),
    [
        ("config.data.tokenizer = 'bpe:500'", '', 'vocabulary size of bpe:500 is not known yet'),
        ("config.model.norm = 'lab.norms:power'", '', 'model.norm: the parameters of a custom'),
        ('', 'x', 'no such trial; known trials: none'),
        ('1 / 0', '', 'ZeroDivisionError'),
    ],
)
def test_uncountable_configs_are_rejected(tmp_path, text, trial, message):
    path = write_config(tmp_path, text)
    with pytest.raises(UserError, match=message):
        planned_model.read_planned_run(str(path), count='', trial=trial)
    with pytest.raises(UserError, match='no such config file'):
        planned_model.read_planned_run(str(tmp_path / 'absent.py'), count='')
    with pytest.raises(UserError, match=r'--count: must be one of total, .* got half'):
        planned_model.read_planned_run('configs/gpt_tiny.py', count='half')
