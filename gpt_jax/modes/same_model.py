"""Can one model section take the weights of another? Where they differ only in how it is computed or trained."""

from collections.abc import Mapping
from typing import Any

from gpt_jax import identity
from gpt_jax.model.config import resolve

# What is in no weight: how the model is computed, how it was started, and what else was minimized.
FREE = ('attention_kernel', 'attention_chunk', 'activation_dtype', 'matmul_dtype', 'scan_layers', 'remat', 'loss_chunk',
        'dropout', 'init_std', 'capacity_factor', 'load_balance', 'router_z', 'z_loss')  # fmt: skip
STRETCHED = ('llama3', 'yarn')  # what rotary positions keep of the original context


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """'model.width: 128 -> 256' for every field of two model sections that keeps their weights apart.

    A section may be as a config says it (0: automatic) or resolved. The context counts only where positions are
    learned, and a vocabulary only where both say one: else the weights' own shapes tell.
    """
    before, after = _fixed(there), _fixed(here)
    if not there['vocab_size'] or not here['vocab_size']:
        before.pop('vocab_size', None), after.pop('vocab_size', None)
    return [f'model.{one}' for one in identity.difference(before, after)]


def _fixed(section: Mapping[str, Any]) -> dict[str, Any]:
    full = dict(identity.flatten(resolve(section, 1)))
    free = [*FREE]
    free += ['context'] if full['position'] != 'learned' else []
    free += ['base_width', 'base_layers', 'base_head_dim'] if full['parametrization'] == 'standard' else []
    free += ['rotary_original_context'] if full.get('rotary_scaling') not in STRETCHED else []
    return {field: value for field, value in full.items() if field not in free}
