"""Parameters and tokens of the run that a config file describes, counted without training."""

from pathlib import Path
from typing import NamedTuple

from gpt_jax.core import config_fields, model_counts
from gpt_jax.core.config import parse_config
from gpt_jax.core.config_cli import expand_trials, find_trial, read_config_file
from gpt_jax.core.errors import UserError

BYTE_VOCAB = 256
COUNTED_PARTS = ('block', 'norm', 'position', 'attention', 'feedforward')


class PlannedRun(NamedTuple):
    """A run that does not exist yet.

    Attributes:
      name: name of the config.
      params: parameters under the chosen convention.
      tokens: training tokens, in whole batches.
      config_hash: as it will be in the run's summary; '' if the run is not given by a config.
    """

    name: str
    params: float
    tokens: float
    config_hash: str


def read_planned_run(path: str, *, count: str, trial: str = '') -> PlannedRun:
    """Read a config file, and count the parameters and tokens of its run.

    Args:
      path: path of the config file.
      count: a convention of `model_counts`; '' is total.
      trial: the name of a trial, if the config is a sweep.

    Raises:
      UserError: there is no such file, trial or convention; the config is invalid; its vocabulary
        is only known after tokenization; or it has a custom layer of unknown size.
    """
    raw_config = read_config_file(Path(path))
    trials = expand_trials(raw_config)
    if trials or trial:
        find_trial(trials, trial)
        raw_config = trials[trial]
    tokenizer = raw_config['data']['tokenizer']
    vocab_size = raw_config['model']['vocab_size'] or (BYTE_VOCAB if tokenizer == 'bytes' else 0)
    if not vocab_size:
        raise UserError(
            f'{path}: the vocabulary size of {tokenizer} is not known yet; give --params'
        )
    for name in COUNTED_PARTS:
        if ':' in str(raw_config['model'][name]):
            raise UserError(
                f'{path}: model.{name}: the parameters of a custom layer are not known here; '
                'give --params'
            )
    config = parse_config(raw_config, vocab_size)
    counts = model_counts.parameters(config.model)
    if (count or 'total') not in counts:
        raise UserError(f'--count: must be one of {", ".join(counts)}, got {count}')
    return PlannedRun(
        config.name,
        counts[count or 'total'],
        config.steps * config.tokens_per_step,
        config_fields.config_hash(raw_config),
    )
