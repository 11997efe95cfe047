"""Rotary position settings in config.json.

They have two forms, depending on the age of the file: `rope_parameters` since transformers 5,
`rope_theta` and `rope_scaling` before. Both are read, and both are written.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.errors import UserError
from gpt_jax.interop.hf_config import (
    LAYER_TYPES,
    MAX_SIZE,
    ConfigReader,
    ConfigValues,
    check_positive,
    hf_name,
)
from gpt_jax.model.position import LLAMA3_ROTATIONS, YARN_ROTATIONS, yarn_magnitude

# Our scaling by their rope_type.
ROPE_TYPES: dict[str, str] = {
    'default': 'none',
    'linear': 'linear',
    'llama3': 'llama3',
    'yarn': 'yarn',
}
# By rope_type, fields that are only supported with these values.
FIXED_ROPE_FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {
    'default': {},
    'linear': {},
    'llama3': {},
    'yarn': {'truncate': (None, True)},
}
# By rope_type, further fields that are read.
ROPE_FIELDS: dict[str, tuple[str, ...]] = {
    'default': (),
    'linear': ('factor',),
    'llama3': ('factor', 'original_max_position_embeddings', 'low_freq_factor', 'high_freq_factor'),
    'yarn': (
        'factor',
        'original_max_position_embeddings',
        'beta_fast',
        'beta_slow',
        'attention_factor',
        'mscale',
        'mscale_all_dim',
    ),
}
# The default rotations of position.py, as (fast, slow).
DEFAULT_ROTATIONS = {'llama3': LLAMA3_ROTATIONS, 'yarn': YARN_ROTATIONS}

RopeError = Callable[[str, str], UserError]  # (field, message) -> the error


def read_rope(
    reader: ConfigReader,
    context: int,
    default_base: float = 10_000.0,
    *,
    base_key: str = 'rope_theta',
    fraction_key: str = '',
) -> ConfigValues:
    """Read the rotary_* fields of the model section, and its context.

    The context is that of the file, or the stretched one of YaRN if that is longer: the recipe of
    Qwen's model cards adds YaRN without changing max_position_embeddings.

    Args:
      reader: the reader of the config.json.
      context: max_position_embeddings, the default of the original context.
      default_base: the layout's default for rope_theta.
      base_key: name of rope_theta outside of the objects.
      fraction_key: name of partial_rotary_factor outside of the objects, where the default is 0.25
        (GPT-NeoX); '': all dims must be rotated.

    Raises:
      UserError: a type or value is not supported, or the two forms contradict each other.
    """
    forms = {key: _get_object(reader, key) for key in ('rope_parameters', 'rope_scaling')}
    for key, kind in itertools.product(forms, LAYER_TYPES):
        if kind in forms[key]:
            raise reader.make_error(
                f'{key}.{kind}', 'rotary positions that differ by layer are not supported'
            )
    return _read_settings(reader, forms, context, default_base, base_key, fraction_key)


def read_layer_rope(
    reader: ConfigReader,
    kinds: list[str],
    context: int,
    default_bases: tuple[float, float],
    window_base_key: str,
) -> ConfigValues:
    """Read the positions of a model whose full and window layers have settings of their own.

    In the new form, `rope_parameters` has an object for each kind of layer. In the old one,
    `rope_scaling` and `rope_theta` are of full layers alone.

    Args:
      reader: the reader of the config.json.
      kinds: the kind of each layer's attention.
      context: max_position_embeddings.
      default_bases: the layout's defaults for rope_theta of full and of window layers.
      window_base_key: name of rope_theta of window layers outside of the objects; '': it has none.

    Raises:
      UserError: as `read_rope`; or window layers are stretched in a way that full layers are not.
    """
    by_kind = _get_object(reader, 'rope_parameters')
    for name in sorted(by_kind.keys() - LAYER_TYPES.keys()):
        raise reader.make_error(
            f'rope_parameters.{name}', f'must be in one of {", ".join(LAYER_TYPES)}'
        )
    full, window = (
        {f'rope_parameters.{kind}': _check_object(reader, kind, by_kind.get(kind))}
        for kind in ('full_attention', 'sliding_attention')
    )
    full['rope_scaling'] = _get_object(reader, 'rope_scaling')
    section = _read_settings(reader, full, context, default_bases[0], 'rope_theta', '')
    window_section = _read_settings(reader, window, context, default_bases[1], window_base_key, '')
    if 'window' not in kinds or window_section == section:
        return section
    if 'rotary_scaling' in window_section:
        raise reader.make_error(
            'rope_parameters.sliding_attention.rope_type',
            "must be 'default', or all as in full_attention",
        )
    return section | {'window_rotary_base': window_section['rotary_base']}


def _read_settings(
    reader: ConfigReader,
    forms: Mapping[str, dict[str, Any]],
    context: int,
    default_base: float,
    base_key: str,
    fraction_key: str,
) -> ConfigValues:
    """Read one set of positions; `forms` are the objects that may hold it, by name."""
    given = {key: form for key, form in forms.items() if form}
    first, *_, key = [*given, *given] or [*forms, *forms]
    rope = forms[key]
    if _select_scaling(rope) != _select_scaling(forms[first]):
        raise reader.make_error(key, f'{rope} contradicts {first} {forms[first]}')
    bases = [form['rope_theta'] for form in given.values() if 'rope_theta' in form]
    outer_base = reader.get(base_key) if base_key else None
    bases += [outer_base] if outer_base is not None else []
    base = bases[0] if bases else default_base
    if any(other != base for other in bases):
        raise reader.make_error(base_key, f'has contradictory values: {bases}')

    def make_error(name: str, message: str) -> UserError:
        return reader.make_error(f'{key}.{name}', message)

    kind = _rope_type(rope)
    if rope.get('type', kind) != kind:
        raise make_error('type', f'{rope["type"]!r} contradicts rope_type {kind!r}')
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise make_error(
            'rope_type', f'{kind!r} is not supported; supported are {", ".join(ROPE_TYPES)}'
        )
    fraction = _read_fraction(reader, rope, fraction_key, make_error)
    _check_fixed_fields(rope, kind, make_error)
    known = {'rope_type', 'type', 'rope_theta', 'partial_rotary_factor', *ROPE_FIELDS[kind]}
    unknown = rope.keys() - known - FIXED_ROPE_FIELDS[kind].keys()
    reader.unknown += [f'{key}.{name}' for name in sorted(unknown)]

    def make_base_error(message: str) -> UserError:
        if 'rope_theta' in rope:
            return make_error('rope_theta', message)
        return reader.make_error(base_key or key, message)

    if check_positive(base, make_base_error) <= 1 and kind == 'yarn':
        raise make_base_error(f'must be above 1 for yarn, got {base!r}')
    section: ConfigValues = {'rotary_base': float(base), 'context': context} | fraction
    section |= _read_scaling(rope, kind, context, make_error)
    if kind == 'yarn' and 'original_max_position_embeddings' in rope:
        stretched = int(section['rotary_factor'] * section['rotary_original_context'])
        section['context'] = max(context, stretched)
    return section


def _get_object(reader: ConfigReader, key: str) -> dict[str, Any]:
    return _check_object(reader, key, reader.get(key))


def _check_object(reader: ConfigReader, key: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise reader.make_error(key, f'must be an object or null, got {value!r}')
    return value or {}


def _rope_type(rope: Mapping[str, Any]) -> Any:
    return rope['rope_type'] if 'rope_type' in rope else rope.get('type', 'default')


def _select_scaling(rope: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that define the scaling, for comparing the two forms."""
    separate = ('rope_type', 'type', 'rope_theta', 'partial_rotary_factor')
    others = {k: v for k, v in rope.items() if k not in separate}
    return {'rope_type': _rope_type(rope), **others}


def _read_fraction(
    reader: ConfigReader, rope: Mapping[str, Any], fraction_key: str, make_error: RopeError
) -> ConfigValues:
    """Return rotary_fraction if the layout has it; else check that it is 1."""
    name = 'partial_rotary_factor'
    if not fraction_key:
        reader.require(name, 1, 1.0, None)
        if rope.get(name) not in (1, None):
            raise make_error(name, f'{rope[name]!r} is not supported; only 1 is')
        return {}
    outer = reader.get(fraction_key, 0.25)
    if name in rope:
        fraction = check_positive(rope[name], lambda why: make_error(name, why))
    else:
        fraction = check_positive(outer, lambda why: reader.make_error(fraction_key, why))
    if fraction > 1:
        raise reader.make_error(fraction_key, f'must be at most 1, got {fraction}')
    return {'rotary_fraction': fraction}


def _check_fixed_fields(rope: Mapping[str, Any], kind: str, make_error: RopeError) -> None:
    for name, allowed in FIXED_ROPE_FIELDS[kind].items():
        if rope.get(name, allowed[0]) not in allowed:
            supported = ' or '.join(map(str, allowed))
            raise make_error(name, f'{rope[name]!r} is not supported; only {supported} is')


def _read_scaling(
    rope: Mapping[str, Any], kind: str, context: int, make_error: RopeError
) -> ConfigValues:
    if kind == 'default':
        return {}

    def read_positive(name: str) -> float:
        if rope.get(name) is None:
            raise make_error(name, 'missing')
        return check_positive(rope[name], lambda why: make_error(name, why))

    factor = read_positive('factor')
    if factor < 1:
        raise make_error('factor', f'must be at least 1, got {factor!r}')
    scaling: ConfigValues = {'rotary_scaling': ROPE_TYPES[kind], 'rotary_factor': factor}
    if kind in ('llama3', 'yarn'):
        name = 'original_max_position_embeddings'
        original = rope.get(name, context)
        is_integer = isinstance(original, int) and not isinstance(original, bool)
        if not is_integer or not 1 <= original <= MAX_SIZE:
            raise make_error(name, f'must be an integer in [1, {MAX_SIZE}], got {original!r}')
        scaling['rotary_original_context'] = original
    if kind == 'llama3':
        rotations = read_positive('high_freq_factor'), read_positive('low_freq_factor')
    elif kind == 'yarn':
        # As in transformers, 0 and null mean the default.
        rotations = (
            read_positive('beta_fast') if rope.get('beta_fast') else YARN_ROTATIONS[0],
            read_positive('beta_slow') if rope.get('beta_slow') else YARN_ROTATIONS[1],
        )
        scaling['rotary_magnitude'] = _read_magnitude(rope, factor, read_positive)
    else:
        return scaling
    if rotations[0] <= rotations[1]:
        raise make_error(kind, f'must stretch slow pairs, got rotations {rotations}')
    if rotations != DEFAULT_ROTATIONS[kind]:
        scaling['rotary_rotations'] = list(map(float, rotations))
    return scaling


def _read_magnitude(
    rope: Mapping[str, Any], factor: float, read_positive: Callable[[str], float]
) -> float:
    """Return YaRN's factor on queries and keys; 0.0 if it is that of the paper."""

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1

    value = magnitude(1)
    if rope.get('attention_factor') is not None:
        value = read_positive('attention_factor')
    elif rope.get('mscale') and rope.get('mscale_all_dim'):
        value = magnitude(read_positive('mscale')) / magnitude(read_positive('mscale_all_dim'))
    return 0.0 if math.isclose(value, magnitude(1), rel_tol=1e-12) else value


def write_rope(model_config: ModelConfig) -> ConfigValues:
    """Return both forms, for old and new readers."""
    kind, scaling = model_config.rotary_scaling, {}
    if kind != 'none':
        scaling = {'rope_type': hf_name(ROPE_TYPES, kind), 'factor': model_config.rotary_factor}
    if kind in ('llama3', 'yarn'):
        scaling['original_max_position_embeddings'] = model_config.rotary_original_context
    fast, slow = model_config.rotary_rotations or DEFAULT_ROTATIONS.get(kind, (0, 0))
    if kind == 'llama3':
        scaling |= {'low_freq_factor': float(slow), 'high_freq_factor': float(fast)}
    if kind == 'yarn' and model_config.rotary_rotations:
        scaling |= {'beta_fast': fast, 'beta_slow': slow}
    if kind == 'yarn' and model_config.rotary_magnitude:
        scaling |= {'attention_factor': yarn_magnitude(model_config)}
    base = model_config.rotary_base
    return {
        'rope_theta': base,
        'rope_scaling': scaling or None,
        'rope_parameters': {'rope_type': 'default', **scaling, 'rope_theta': base},
    }


def write_layer_rope(model_config: ModelConfig) -> ConfigValues:
    """Return the fields of a model whose full and window layers have settings of their own."""
    rope = write_rope(model_config)
    full, base = rope['rope_parameters'], model_config.window_rotary_base
    window = {'rope_type': 'default', 'rope_theta': base} if base else full
    return rope | {'rope_parameters': {'full_attention': full, 'sliding_attention': window}}
