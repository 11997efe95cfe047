"""Does a config count as the run that it describes?"""

import pytest

from gpt_jax import assemble, identity, overrides
from gpt_jax.errors import UserError
from gpt_jax.model import accounting
from gpt_jax.scaling.plan import subject


@pytest.mark.parametrize(('path', 'trial'), [('configs/gpt_tiny.py', ''), ('configs/isoflop_cpu.py', '1e12-2x48')])
@pytest.mark.parametrize('count', ['total', 'non_embedding', 'without_positions'])
def test_counts_are_those_of_the_run_itself(path, trial, count):
    found = subject.of_config(path, count=count, trial=trial)
    module = __import__(path.removesuffix('.py').replace('/', '.'), fromlist=['get_config'])
    config = overrides.plain(module.get_config())
    config = overrides.trials(config)[trial] if trial else config
    settings = assemble.settings(config, vocab_size=256)
    assert found.params == accounting.parameters(settings.model)[count]
    assert found.tokens == settings.steps * settings.tokens_per_step
    assert found.config_hash == identity.config_hash(config)


@pytest.mark.parametrize(
    ('text', 'trial', 'message'),
    [("config.model.norm = 'rms'", '', "model.norm is 'rms', which is not counted here"),
     ("config.model.block = 'parallel'", '', "model.block is 'parallel', which is not counted here"),
     ("config.model.final_norm = False", '', 'model.final_norm is False'),
     ("config.model.feedforward = 'experts'", '', "model.feedforward is 'experts'"),
     ("config.data.tokenizer = 'bpe:500'", '', 'the vocabulary of bpe:500 is not known yet'),
     ('', 'x', 'no such trial of .*none: no sweep'),
     ('1 / 0', '', 'ZeroDivisionError')],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused(tmp_path, text, trial, message):
    path = tmp_path / 'c.py'
    head = 'from configs import base\ndef get_config():\n    config = base.get_config()\n'
    path.write_text(f'{head}    {text}\n    return config\n')
    with pytest.raises(UserError, match=message):
        subject.of_config(str(path), count='', trial=trial)
    with pytest.raises(UserError, match='no such file'):
        subject.of_config(str(tmp_path / 'absent.py'), count='')
