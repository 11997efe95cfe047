"""Declaration and checks of config fields, the config's hash, and differences of configs."""

import dataclasses
import difflib
import hashlib
import json
import math
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from gpt_jax.core.errors import UserError
from gpt_jax.core.files import expand_home

T = TypeVar('T')
MICROBATCH_SIZE, EVAL_EVERY = 'train.microbatch_size', 'train.eval_every'

# Fields that are not part of a run's identity: they affect results by rounding at most. For some of
# them that depends on others; see select_run_fields.
FREE_FIELDS = (
    'name',
    'sweep',
    'benchmark',
    'mesh',
    'data.cache',
    MICROBATCH_SIZE,
    'train.log_every',
    EVAL_EVERY,
    'train.eval_batch_size',
    'train.checkpoint_every',
    'train.keep_checkpoints',
    'train.tensorboard',
    'train.trackers',
    'train.stall_minutes',
    'suite.every',
    'suite.contamination_ngram',
)
# Fields that older runs lack, with the defaults that do what those runs did. At these values they
# are left out of the run's fields, so that the hash is the same, and an older run can be resumed.
LATER_FIELDS: dict[str, Any] = {
    'data.separator': '',
    'model.rotary_rotations': [],
    'model.rotary_magnitude': 0.0,
    'model.attention_scale_dim': 0,
    'model.attention_layer_scaling': False,
    'model.qk_norm_per_head': True,
    'model.scale_embedding': False,
    'model.window_rotary_base': 0.0,
}


def require(condition: bool, field: str, message: str) -> None:
    """Raise UserError('config.field: message') unless `condition` holds."""
    if not condition:
        raise UserError(f'config.{field}: {message}')


def check_choice(
    value: str, choices: Iterable[str], field: str, *, extensible: bool = False
) -> None:
    """Raise UserError, naming the choices and the nearest one, unless `value` is one of them.

    Args:
      extensible: whether the message also offers a dotted path; see field().
    """
    choices = list(choices)
    if value not in choices:  # the search for the nearest takes longer than all other checks
        hint, words = nearest(value, choices), ', '.join(choices)
        path = " or a dotted path 'package.module:name'" if extensible else ''
        raise UserError(f'config.{field}: must be one of {words}{path}, got {value!r}{hint}')


def check_name(value: Any, field: str) -> None:
    """Raise UserError unless `value` is a name: 1 to 64 of [A-Za-z0-9._-], no leading dot."""
    good = isinstance(value, str) and re.fullmatch(r'[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}', value)
    require(bool(good), field, f'must be 1 to 64 characters of A-Z a-z 0-9 . _ -, got {value!r}')


def nearest(word: str, words: Iterable[str]) -> str:
    """Return '; the nearest is X' for the known word closest to `word`, or ''."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f'; the nearest is {close[0]!r}' if close else ''


def from_dict(cls: type[T], mapping: Mapping[str, Any], path: str) -> T:
    """Build the frozen dataclass `cls` from `mapping`, which must have exactly its fields.

    Args:
      cls: a dataclass whose fields are int, float, str, bool or tuples.
      mapping: values by field name. An int is accepted for a float and a list for a tuple;
        nothing else is converted.
      path: the section ('model'), for error messages.

    Raises:
      UserError: a field is unknown, missing or of the wrong type; names it as `path.key`.
    """
    types = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in mapping:
        if key not in names:
            raise UserError(f'config.{path}.{key}: no such field{nearest(key, names)}')
    for name in names:
        if name not in mapping:
            raise UserError(f'config.{path}.{name}: missing')
    return cls(
        **{name: _convert(mapping[name], types[name], f'config.{path}.{name}') for name in names}
    )


def _convert(value: Any, annotation: Any, field: str) -> Any:
    base = typing.get_origin(annotation) or annotation
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if base is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f'{field}: must be finite, got {value}')
    if base is tuple and isinstance(value, list | tuple):
        return tuple(value)
    if not isinstance(value, base) or (base is int and isinstance(value, bool)):
        raise UserError(f'{field}: must be {base.__name__}, got {value!r}')
    return value


def flatten_config(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield ('model.width', 128) for every leaf, sorted by name."""
    for key in sorted(config):
        value = config[key]
        if isinstance(value, Mapping):
            yield from flatten_config(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', list(value) if isinstance(value, tuple) else value


def depends_on_partition(config: Mapping[str, Any]) -> bool:
    """Return whether the division of a batch among devices and microbatches affects the result.

    Each microbatch of a device has dropout masks, expert capacities and router losses of its own.
    """
    fields = dict(flatten_config(config))

    def is_positive(field: str) -> bool:
        return fields.get(field, 0) > 0

    routing = ('model.capacity_factor', 'model.load_balance', 'model.router_z')
    return (
        is_positive('model.dropout')
        or (is_positive('finetune.rank') and is_positive('finetune.dropout'))
        or (is_positive('model.experts') and any(map(is_positive, routing)))
    )


def select_run_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that determine the run's results, by dotted name.

    Paths are as the user wrote them, '~' included.
    """
    free = set(FREE_FIELDS)
    fields = dict(flatten_config(config))
    if depends_on_partition(config):
        free.remove(MICROBATCH_SIZE)  # the mesh is in the partition: see config_hash
    if fields.get('train.early_stopping_patience') or fields.get('train.keep_best'):
        free.remove(EVAL_EVERY)  # the validations choose the parameters
    return {
        key: value
        for key, value in fields.items()
        if not (key in free or key.partition('.')[0] in free)
        and not (key in LATER_FIELDS and value == LATER_FIELDS[key])
    }


def add_later_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of an older run with the fields that it lacks, at LATER_FIELDS' values."""
    completed = dict(config)
    for key, value in LATER_FIELDS.items():
        section, _, field_name = key.partition('.')
        if section in completed:
            completed[section] = {field_name: value} | dict(completed[section])
    return completed


def config_hash(config: Mapping[str, Any], partition: str = '') -> str:
    """Return a hash of the fields of `select_run_fields`, 16 hex digits.

    Args:
      partition: how a run's devices and microbatches divide a batch, where the result depends on
        it; then it follows the digits after a '-'. A run that is only planned has none yet.
    """
    fields = json.dumps(select_run_fields(config), sort_keys=True)
    digits = hashlib.sha256(fields.encode()).hexdigest()[:16]
    return f'{digits}-{partition}' if partition else digits


def is_hash_of(run_hash: str, planned_hash: str) -> bool:
    """Return whether a run has the config of `planned_hash`, in whatever partition."""
    return run_hash == planned_hash or run_hash.startswith(f'{planned_hash}-')


def diff_configs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return 'model.width: 128 -> 256' for every field that differs between two flat configs."""
    absent = 'absent'
    return [
        f'{key}: {before.get(key, absent)} -> {after.get(key, absent)}'
        for key in sorted(set(before) | set(after))
        if before.get(key, absent) != after.get(key, absent)
    ]


class Range(NamedTuple):
    """An interval of allowed numbers; str() gives the wording of the error message."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def contains(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return 'must be positive' if self.low_open else f'must be {self.low:g} or more'
        left, right = '(' if self.low_open else '[', ')' if self.high_open else ']'
        return f'must be in {left}{self.low:g}, {self.high:g}{right}'


POSITIVE = Range(low=0, low_open=True)
NON_NEGATIVE = Range(low=0)
UNIT = Range(0, 1)  # [0, 1]
SHARE = Range(0, 1, low_open=True)  # (0, 1]
PROPER_SHARE = Range(0, 1, low_open=True, high_open=True)  # (0, 1)
BELOW_ONE = Range(0, 1, high_open=True)  # [0, 1)
AT_LEAST_ONE = Range(low=1)
SEED = Range(0, 2**32, high_open=True)
MAX_INT32 = 2**31 - 1  # of shapes, and of the step in a run's state
MAX_INT64 = 2**63 - 1


def field(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    extensible: bool = False,
    allowed: Range | None = None,
    largest: int = MAX_INT32,
    items: type | None = None,
    path: bool = False,
) -> Any:
    """Declare one config field.

    Args:
      default: its value in `base_config()`.
      doc: one line for the reference page and --help.
      choices: the allowed values; empty for free text and numbers.
      extensible: whether a dotted path 'package.module:name' is accepted in addition to `choices`.
      allowed: the interval of allowed numbers.
      largest: the largest allowed integer.
      items: the type of a tuple's elements.
      path: whether it is a path, or may be one; a leading ~ is then expanded.
    """
    about = {
        'default': default,
        'doc': doc,
        'choices': choices,
        'extensible': extensible,
        'allowed': allowed,
        'largest': largest,
        'items': items,
        'path': path,
    }
    return dataclasses.field(metadata=about)


class ConfigSection:
    """Base of the sections: checks each field against its declaration, and expands paths."""

    section: str  # its name in the config, set by each subclass

    def __post_init__(self) -> None:
        for declared in dataclasses.fields(self):  # type: ignore[arg-type]
            self._check_field(declared)
            if declared.metadata['path']:
                self._expand_path(declared.name)
        self.check()

    def _expand_path(self, name: str) -> None:
        value, field_name = getattr(self, name), f'config.{self.section}.{name}'
        expanded = (
            tuple(expand_home(item, field_name) for item in value)
            if isinstance(value, tuple)
            else expand_home(value, field_name)
        )
        object.__setattr__(self, name, expanded)  # the sections are frozen

    def _check_field(self, declared: dataclasses.Field[Any]) -> None:
        value, about = getattr(self, declared.name), declared.metadata
        name = f'{self.section}.{declared.name}'
        if about['choices']:
            for word in value if isinstance(value, tuple) else (value,):
                if not (about['extensible'] and ':' in str(word)):
                    check_choice(word, about['choices'], name, extensible=about['extensible'])
        if about['allowed'] is not None:
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    good = about['allowed'].contains(number)
                    require(good, name, f'{about["allowed"]}, got {number}')
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int):
                good = number <= about['largest']
                require(good, name, f'must be at most {about["largest"]:,}, got {number:,}')
        if about['items'] is not None:
            for item in value:
                good = isinstance(item, about['items']) and not isinstance(item, bool)
                good = good and item != ''
                require(good, name, f'must list {about["items"].__name__} values, got {item!r}')

    def check(self) -> None:
        """Check conditions that involve several fields."""
