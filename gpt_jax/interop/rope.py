"""How are rotary positions said in a config.json? In two ways, by its age; both are read, and both are written.

Since transformers 5 `rope_parameters` holds all of it; before, it was `rope_theta` and `rope_scaling`.
"""

import math
from collections.abc import Callable
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.interop.fields import LARGEST, Fields, positive
from gpt_jax.model.config import ModelConfig

# Their types by ours, and the fields that each may have; of those that are fixed, the value that the model computes.
TYPES: dict[str, str] = {'default': 'none', 'linear': 'linear', 'llama3': 'llama3', 'yarn': 'yarn'}
FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    'default': {},
    'linear': {},
    'llama3': {'low_freq_factor': (1,), 'high_freq_factor': (4,)},
    'yarn': {'beta_fast': (None, 32), 'beta_slow': (None, 1), 'mscale': (None,), 'mscale_all_dim': (None,),
             'truncate': (None, True)},
}  # fmt: skip
NESTED = ('full_attention', 'sliding_attention')


def read(fields: Fields, context: int, default_base: float) -> dict[str, Any]:
    """Our rotary_* fields.

    Args:
      context: max_position_embeddings, which is where the original context is not said.
      default_base: the layout's rope_theta where none is said.

    Raises:
      UserError: a type or a value that the model does not compute, or the two ways contradict each other.
    """
    new, old = _part(fields, 'rope_parameters'), _part(fields, 'rope_scaling')
    key = 'rope_scaling' if old else 'rope_parameters'
    given = old or new
    if new and old and _plain(new) != _plain(old):
        raise fields.refuse('rope_scaling', f'{old} contradicts rope_parameters {new}')
    fields.only('partial_rotary_factor', 1, 1.0, None)
    bases = [part['rope_theta'] for part in (new, old) if 'rope_theta' in part]
    outer = fields.raw('rope_theta')
    bases += [outer] if outer is not None else []
    base = bases[0] if bases else default_base
    if any(one != base for one in bases):
        raise fields.refuse('rope_theta', f'stands there with different values: {bases}')

    def refuse(name: str) -> Callable[[str], UserError]:
        return lambda why: fields.refuse(f'{key}.{name}', why)

    kind = given['rope_type'] if 'rope_type' in given else given.get('type', 'default')
    if given.get('type', kind) != kind:
        raise refuse('type')(f'{given["type"]!r} contradicts rope_type {kind!r}')
    if not isinstance(kind, str) or kind not in TYPES:
        raise refuse('rope_type')(f'{kind!r} is not supported; supported are {", ".join(TYPES)}')
    _check_known(given, kind, refuse)
    refuse_base = refuse('rope_theta') if 'rope_theta' in given else lambda why: fields.refuse('rope_theta', why)
    if positive(base, refuse_base) <= 1 and kind == 'yarn':
        raise refuse_base(f'wants a number above 1 for yarn, got {base!r}')
    return _plain_rotary(float(base)) | _scaling(given, kind, context, refuse)


def _part(fields: Fields, key: str) -> dict[str, Any]:
    given = fields.raw(key)
    if given is not None and not isinstance(given, dict):
        raise fields.refuse(key, f'wants an object or null, got {given!r}')
    for name in NESTED:
        if given and name in given:
            raise fields.refuse(f'{key}.{name}', 'rotary positions that differ by layer are not supported')
    return given or {}


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """What says the scaling, whichever way it is said."""
    kind = given['rope_type'] if 'rope_type' in given else given.get('type', 'default')
    return {'rope_type': kind} | {k: v for k, v in given.items() if k not in ('rope_type', 'type', 'rope_theta')}


def _check_known(given: dict[str, Any], kind: str, refuse: Callable[[str], Callable[[str], UserError]]) -> None:
    known = {'rope_type', 'type', 'rope_theta', 'partial_rotary_factor', *FIXED[kind]}
    known |= {'factor'} if kind != 'default' else set()
    known |= {'original_max_position_embeddings'} if kind in ('llama3', 'yarn') else set()
    known |= {'attention_factor'} if kind == 'yarn' else set()
    for name in given:
        if name not in known:
            raise refuse(name)(f'no such field is known for rope_type {kind!r}')
    for name, allowed in {'partial_rotary_factor': (1, None), **FIXED[kind]}.items():
        if given.get(name, allowed[0]) not in allowed:
            raise refuse(name)(f'{given[name]!r} is not supported; only {" or ".join(map(str, allowed))} is')
        if kind == 'llama3' and name in FIXED[kind] and name not in given:
            raise refuse(name)('missing')


def _plain_rotary(base: float) -> dict[str, Any]:
    return {
        'rotary_base': base,
        'rotary_fraction': 1.0,
        'rotary_scaling': 'none',
        'rotary_factor': 1.0,
        'rotary_original_context': 0,
    }


def _scaling(
    given: dict[str, Any], kind: str, context: int, refuse: Callable[[str], Callable[[str], UserError]]
) -> dict[str, Any]:
    if kind == 'default':
        return {}
    if 'factor' not in given:
        raise refuse('factor')('missing')
    factor = positive(given['factor'], refuse('factor'))
    if factor < 1:
        raise refuse('factor')(f'wants a number from 1 up, got {factor!r}')
    made: dict[str, Any] = {'rotary_scaling': TYPES[kind], 'rotary_factor': factor}
    if kind in ('llama3', 'yarn'):
        original = given.get('original_max_position_embeddings', context)
        if not isinstance(original, int) or isinstance(original, bool) or not 1 <= original <= LARGEST:
            raise refuse('original_max_position_embeddings')(f'wants a whole number, got {original!r}')
        made['rotary_original_context'] = original
    if given.get('attention_factor') is not None:
        attention = positive(given['attention_factor'], refuse('attention_factor'))
        if not math.isclose(attention, 0.1 * math.log(max(factor, 1)) + 1, rel_tol=1e-6):
            raise refuse('attention_factor')(f'{attention!r} is not supported; only 0.1 ln(factor) + 1 is')
    return made


def write(model: ModelConfig) -> dict[str, Any]:
    """Both ways of saying it, for old readers and new ones."""
    theirs = {ours: name for name, ours in TYPES.items()}
    scaling: dict[str, Any] = {}
    if model.rotary_scaling != 'none':
        scaling = {'rope_type': theirs[model.rotary_scaling], 'factor': model.rotary_factor}
    if model.rotary_scaling in ('llama3', 'yarn'):
        scaling['original_max_position_embeddings'] = model.rotary_original_context
    if model.rotary_scaling == 'llama3':
        scaling |= {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
    return {
        'rope_theta': model.rotary_base,
        'rope_scaling': scaling or None,
        'rope_parameters': {'rope_type': 'default', **scaling, 'rope_theta': model.rotary_base},
    }
