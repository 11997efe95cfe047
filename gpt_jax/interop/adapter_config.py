"""What does an adapter_config.json of PEFT say, and what do we say in it? Every field is taken, or refused."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.interop.fields import Fields

NAME = 'adapter_config.json'
# What may stand there but says nothing of the function that the tensors compute: where it came from, how it was
# trained, and which modules it is on, which the tensors' names say too.
UNREAD = (
    'auto_mapping', 'revision', 'inference_mode', 'peft_version', 'target_modules', 'exclude_modules',
    'layers_to_transform', 'layers_pattern', 'fan_in_fan_out', 'megatron_core', 'qalora_group_size', 'runtime_config',
)  # fmt: skip
# What would be another function, or other base weights; it may stand there as said here alone.
ONLY: Mapping[str, tuple[Any, ...]] = {
    'peft_type': ('LORA',), 'task_type': (None, 'CAUSAL_LM'), 'bias': ('none',), 'use_dora': (False,),
    'lora_bias': (False,), 'use_qalora': (False,), 'init_lora_weights': (True, False, 'gaussian', 'orthogonal'),
    'modules_to_save': (None, []), 'trainable_token_indices': (None,), 'target_parameters': (None, []),
    'layer_replication': (None,), 'megatron_config': (None,), 'loftq_config': (None, {}), 'eva_config': (None,),
    'corda_config': (None,), 'lora_ga_config': (None,), 'velora_config': (None,), 'alora_invocation_tokens': (None,),
    'monteclora_config': (None,), 'use_bdlora': (None,), 'arrow_config': (None,), 'kasa_config': (None,),
}  # fmt: skip


class Said(NamedTuple):
    """What a folder says of its adapters.

    base: the model that they are for; '' where it is not said. ranks and alphas: by a pattern of the modules' names,
    where they are not the rest's. tied: those of a tied embedding and head are one.
    """

    base: str
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    stabilized: bool
    dropout: float
    tied: bool

    def of(self, module: str) -> tuple[int, float]:
        """(rank, what its product is multiplied with)."""
        rank, alpha = _matched(self.ranks, module, self.rank), _matched(self.alphas, module, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.stabilized else rank)


def _matched(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """As PEFT matches: the first pattern that is the end of the name, from a dot on."""
    return next((value for key, value in patterns.items() if re.match(rf'(.*\.)?({key})$', module)), default)


def read(path: Path, values: Mapping[str, Any]) -> Said:
    """Raises UserError for a field that is not known, or says what we do not compute; names it."""
    fields = Fields(path, values)
    for key in UNREAD:
        fields.raw(key)
    for key, allowed in ONLY.items():
        fields.only(key, *allowed)
    base = fields.raw('base_model_name_or_path')
    said = Said(
        base=base if isinstance(base, str) else '',
        rank=fields.size('r', 8),
        alpha=fields.number('lora_alpha', 8),
        ranks=_patterns(fields, 'rank_pattern', whole=True),
        alphas=_patterns(fields, 'alpha_pattern', whole=False),
        stabilized=fields.flag('use_rslora', False),
        dropout=_share(fields, 'lora_dropout'),
        tied=fields.flag('ensure_weight_tying', False),
    )
    fields.finish()
    return said


def _share(fields: Fields, key: str) -> float:
    value = fields.raw(key, 0.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise fields.refuse(key, f'wants a number from 0 up to 1, got {value!r}')
    return float(value)


def _patterns(fields: Fields, key: str, *, whole: bool) -> dict[str, Any]:
    values = fields.raw(key) or {}
    if not isinstance(values, dict):
        raise fields.refuse(key, f'wants numbers by the names of modules, got {values!r}')
    for pattern, value in values.items():
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or not 0 < value < 2**31:
            raise fields.refuse(key, f'{pattern!r} wants a {"whole " if whole else ""}number above 0, got {value!r}')
        try:
            re.compile(pattern)
        except re.error as error:
            raise fields.refuse(key, f'{pattern!r} is no pattern ({error})') from None
    return values


def written(
    modules: Mapping[str, tuple[int, float]], targets: list[str], *, base: str, conv: bool, stabilized: bool,
    dropout: float, tied: bool,
) -> dict[str, Any]:  # fmt: skip
    """The file's content.

    Args:
      modules: (rank, scale) by name. targets: as the file names them.
      conv: whether the modules are of GPT-2's kind, whose matrices have their inputs first.
    """
    alphas = {
        name: _round(scale * (math.sqrt(rank) if stabilized else rank)) for name, (rank, scale) in modules.items()
    }
    ranks = {name: rank for name, (rank, _) in modules.items()}
    if not modules:
        raise UserError('no adapter to be written: all of them are zero')
    rank, alpha = (Counter(numbers.values()).most_common(1)[0][0] for numbers in (ranks, alphas))
    return {
        'peft_type': 'LORA', 'task_type': 'CAUSAL_LM', 'base_model_name_or_path': base, 'inference_mode': True,
        'r': rank, 'lora_alpha': alpha, 'lora_dropout': dropout, 'target_modules': targets, 'fan_in_fan_out': conv,
        'bias': 'none', 'use_rslora': stabilized, 'use_dora': False, 'init_lora_weights': True,
        'modules_to_save': None, 'ensure_weight_tying': tied,
        'rank_pattern': {name: own for name, own in ranks.items() if own != rank},
        'alpha_pattern': {name: own for name, own in alphas.items() if own != alpha},
    }  # fmt: skip


def _round(alpha: float) -> float:
    """A whole number where it differs from one by no more than float32 can tell."""
    return round(alpha) if abs(alpha - round(alpha)) <= 1e-6 * alpha else alpha
