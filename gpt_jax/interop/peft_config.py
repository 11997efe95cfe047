"""Reading and writing of PEFT's adapter_config.json.

Every field of PEFT 0.21 is used, ignored or rejected. A field of a later version is ignored if
it is empty, and rejected if not, since it may change what the adapters compute.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core.errors import UserError
from gpt_jax.interop.hf_config import ConfigReader

ADAPTER_CONFIG_FILE = 'adapter_config.json'
# Fields that do not affect the function that the tensors compute: provenance, training, and the
# modules with adapters, which also follow from the tensors' names.
IGNORED_FIELDS = (
    'auto_mapping',
    'revision',
    'inference_mode',
    'peft_version',
    'target_modules',
    'exclude_modules',
    'layers_to_transform',
    'layers_pattern',
    'fan_in_fan_out',
    'megatron_core',
    'qalora_group_size',
    'runtime_config',
)
# Fields that are only accepted with these values; others mean a different function or base model.
FIXED_FIELDS: Mapping[str, tuple[Any, ...]] = {
    'peft_type': ('LORA',),
    'task_type': (None, 'CAUSAL_LM'),
    'bias': ('none',),
    'use_dora': (False,),
    'lora_bias': (False,),
    'use_qalora': (False,),
    'init_lora_weights': (True, False, 'gaussian', 'orthogonal'),
    'trainable_token_indices': (None,),
    'target_parameters': (None, []),
    'layer_replication': (None,),
    'megatron_config': (None,),
    'loftq_config': (None, {}),
    'eva_config': (None,),
    'corda_config': (None,),
    'lora_ga_config': (None,),
    'velora_config': (None,),
    'alora_invocation_tokens': (None,),
    'monteclora_config': (None,),
    'use_bdlora': (None,),
    'arrow_config': (None,),
    'kasa_config': (None,),
}


class PeftConfig(NamedTuple):
    """The fields of an adapter_config.json that are used.

    Attributes:
      base: name of the base model; '' if there is none.
      rank, alpha: the values for modules that match no pattern.
      ranks, alphas: the values for others, by pattern of module names.
      rank_stabilized: whether the scale is alpha / sqrt(rank) instead of alpha / rank (rsLoRA).
      dropout: dropout rate during training.
      tied: whether a tied embedding and head share one adapter.
      saves_modules: whether the folder holds whole weights in place of the base model's.
      unknown_fields: fields that PEFT's class does not have (0.21; a test compares them), and that
        it ignores too.
    """

    base: str
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilized: bool
    dropout: float
    tied: bool
    saves_modules: bool
    unknown_fields: tuple[str, ...]

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Return the rank of a module's adapter and the factor of its product."""
        rank = _match_pattern(self.ranks, module, self.rank)
        alpha = _match_pattern(self.alphas, module, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def _match_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Match as PEFT does: the first pattern that matches the name or its end after a dot."""
    for pattern, value in patterns.items():
        if re.match(rf'(.*\.)?({pattern})$', module):
            return value
    return default


def read_adapter_config(path: Path, values: Mapping[str, Any]) -> PeftConfig:
    """Read an adapter_config.json.

    Args:
      path: the file, for error messages.
      values: its content.

    Raises:
      UserError: a field has an unsupported value; names it.
    """
    reader = ConfigReader(path, values)
    for key in IGNORED_FIELDS:
        reader.get(key)
    for key, allowed in FIXED_FIELDS.items():
        reader.require(key, *allowed)
    base = reader.get('base_model_name_or_path')
    config = PeftConfig(
        base=base if isinstance(base, str) else '',
        rank=reader.get_int('r', 8),
        alpha=reader.get_positive('lora_alpha', 8),
        ranks=_read_patterns(reader, 'rank_pattern', integers=True),
        alphas=_read_patterns(reader, 'alpha_pattern', integers=False),
        rank_stabilized=reader.get_bool('use_rslora', False),
        dropout=_read_probability(reader, 'lora_dropout'),
        tied=reader.get_bool('ensure_weight_tying', False),
        saves_modules=bool(reader.get('modules_to_save')),
        unknown_fields=(),
    )
    reader.collect_unknown()
    return config._replace(unknown_fields=tuple(reader.unknown))


def _read_probability(reader: ConfigReader, key: str) -> float:
    value = reader.get(key, 0.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise reader.make_error(key, f'must be a number in [0, 1), got {value!r}')
    return float(value)


def _read_patterns(reader: ConfigReader, key: str, *, integers: bool) -> dict[str, Any]:
    values = reader.get(key) or {}
    if not isinstance(values, dict):
        raise reader.make_error(key, f'must be an object of numbers by module, got {values!r}')
    for pattern, value in values.items():
        is_number = isinstance(value, int if integers else int | float)
        if not is_number or isinstance(value, bool) or not 0 < value < 2**31:
            kind = 'an integer' if integers else 'a number'
            raise reader.make_error(key, f'{pattern!r}: must be {kind} above 0, got {value!r}')
        try:
            re.compile(pattern)
        except re.error as error:
            raise reader.make_error(key, f'{pattern!r} is not a pattern ({error})') from None
    return values


def make_adapter_config(
    modules: Mapping[str, tuple[int, float]],
    targets: list[str],
    *,
    base: str,
    is_conv1d: bool,
    rank_stabilized: bool,
    dropout: float,
    tied: bool,
) -> dict[str, Any]:
    """Make the content of an adapter_config.json.

    Args:
      modules: rank and scale by module name.
      targets: the value of target_modules.
      base: name of the base model.
      is_conv1d: whether the modules are GPT-2's Conv1D, whose matrices have their inputs first.
      rank_stabilized, dropout, tied: see PeftConfig.

    Raises:
      UserError: there are no modules.
    """
    if not modules:
        raise UserError('no adapter to export: all of them are zero')
    ranks = {name: rank for name, (rank, _) in modules.items()}
    alphas = {
        name: _round_alpha(scale * (math.sqrt(rank) if rank_stabilized else rank))
        for name, (rank, scale) in modules.items()
    }
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        'peft_type': 'LORA',
        'task_type': 'CAUSAL_LM',
        'base_model_name_or_path': base,
        'inference_mode': True,
        'r': rank,
        'lora_alpha': alpha,
        'lora_dropout': dropout,
        'target_modules': targets,
        'fan_in_fan_out': is_conv1d,
        'bias': 'none',
        'use_rslora': rank_stabilized,
        'use_dora': False,
        'init_lora_weights': True,
        'modules_to_save': None,
        'ensure_weight_tying': tied,
        'rank_pattern': {name: other for name, other in ranks.items() if other != rank},
        'alpha_pattern': {name: other for name, other in alphas.items() if other != alpha},
    }


def _round_alpha(alpha: float) -> float:
    """Round to an integer if the difference is below float32's precision."""
    return round(alpha) if abs(alpha - round(alpha)) <= 1e-6 * alpha else alpha
