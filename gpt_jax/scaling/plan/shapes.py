"""Model shapes of whole layers near a parameter count, for any architecture of the config.

All counts come from core/model_counts.py, so that a plan counts as its runs will.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from gpt_jax.core import config_fields, model_counts
from gpt_jax.core.config import ModelConfig, default_config, parse_config, resolve_model
from gpt_jax.core.config_cli import expand_trials, find_trial, read_config_file
from gpt_jax.core.config_fields import from_dict
from gpt_jax.core.errors import UserError

ASPECT = (40, 160)  # width over layers: the loss is flat inside (Kaplan et al. 2020, figure 5)
USUAL_ASPECT = 90  # width over layers of GPT-3's larger models
ASPECT_WEIGHT = 0.02  # of |log(aspect / usual)| against |log(N / optimum)|, for a single model
SWEEP_ASPECT_WEIGHT = 0.2  # the same for a sweep: along a curve, only the size should change
MAX_WIDTH = 32_768
HEAD_DIMS = (64, 128)  # below WIDE_HEADS_FROM, and from it on
WIDE_HEADS_FROM = 2048  # width
MAX_FACTOR = 1.5  # a shape further than this factor from the optimum is rejected
REFINEMENT = 8  # sizes tried per size needed, if neighboring sizes share one shape
COUNTS = ('total', 'non_embedding', 'without_positions')
ACTIVE_COUNTS = ('active', 'active_non_embedding')  # reported where experts make them differ


class Shape(NamedTuple):
    """The sizes that differ between the models of a plan, and the context and vocabulary."""

    layers: int
    width: int
    heads: int
    context: int
    vocab: int


class Architecture:
    """What the models of a plan share besides their shape: the model section of a config.

    A shape scales the section: if the section sets them, the number of key/value heads keeps its
    ratio to the query heads, and the feed-forward width its ratio to the width.
    """

    def __init__(self, raw_model: Mapping[str, Any] | None = None):
        """Create an architecture.

        Args:
          raw_model: the model section of a raw config; None: the defaults (GPT-2's).
        """
        self.raw_model = dict(default_config()['model'] if raw_model is None else raw_model)
        self._count_by_depth = functools.cache(self._count_one_and_two_layers)
        self.flops_per_token = functools.cache(self._count_flops)

    def scale(self, shape: Shape) -> dict[str, int]:
        """Return the fields of the model section that a shape sets."""
        fields = {'layers': shape.layers, 'width': shape.width, 'heads': shape.heads}
        raw = self.raw_model
        if raw['kv_heads']:
            group = max(1, raw['heads'] // raw['kv_heads'])
            fields['kv_heads'] = shape.heads // math.gcd(shape.heads, group)
        if raw['mlp_width']:
            eighths = shape.width * raw['mlp_width'] / raw['width'] / 8
            same = shape.width == raw['width']
            fields['mlp_width'] = raw['mlp_width'] if same else 8 * max(1, round(eighths))
        return fields

    def make_config(self, shape: Shape) -> ModelConfig:
        """Return the checked model config of a shape.

        Raises:
          UserError: the architecture has no such shape; names the field.
        """
        sizes = {'context': shape.context, 'vocab_size': shape.vocab}
        raw_model = self.raw_model | self.scale(shape) | sizes
        return from_dict(ModelConfig, resolve_model(raw_model, shape.vocab), 'model')

    def split_width(self, width: int, head_dim: int | None) -> int:
        """Return the number of heads for a width; `head_dim` is the width per head, if given."""
        raw = self.raw_model
        if head_dim is None and raw['head_dim']:  # heads and width are decoupled, as in Qwen 3
            return max(1, round(width * raw['heads'] / raw['width']))
        return width // (head_dim or HEAD_DIMS[width >= WIDE_HEADS_FROM])

    def count_parameters(self, shape: Shape) -> dict[str, int]:
        """Count the parameters by convention, with core/model_counts.py."""
        base, per_layer = self._count_by_depth(shape._replace(layers=1))
        return {name: base[name] + shape.layers * per_layer[name] for name in base}

    def _count_one_and_two_layers(self, shape: Shape) -> tuple[dict[str, int], dict[str, int]]:
        # Counts are affine in the depth, so two of them give those of all depths.
        one_layer, two_layers = (
            model_counts.parameters(self.make_config(shape._replace(layers=layers)))
            for layers in (1, 2)
        )
        names = COUNTS if one_layer['active'] == one_layer['total'] else (*COUNTS, *ACTIVE_COUNTS)
        per_layer = {name: two_layers[name] - one_layer[name] for name in names}
        return {name: one_layer[name] - per_layer[name] for name in names}, per_layer

    def _count_flops(self, shape: Shape) -> dict[str, int]:
        """Count the training FLOPs per token by convention, with core/model_counts.py."""
        return model_counts.flops_per_token(self.make_config(shape))


GPT2 = Architecture()


class ShapeFamily(NamedTuple):
    """What the shapes of a sweep share.

    Attributes:
      counted: the parameters that N counts, a key of `Architecture.count_parameters`.
      context: tokens per sequence.
      vocab: size of the vocabulary.
      head_dim: width over heads; None: the architecture's, or HEAD_DIMS.
      layers: depth of all shapes; None: a depth that suits the width.
      architecture: everything else.
    """

    counted: str
    context: int
    vocab: int
    head_dim: int | None
    layers: int | None
    architecture: Architecture = GPT2

    def make_shape(self, layers: int, width: int) -> Shape:
        heads = self.architecture.split_width(width, self.head_dim)
        return Shape(layers, width, heads, self.context, self.vocab)

    def count_size(self, shape: Shape) -> int:
        """Return N of a shape, counted as `counted` says."""
        return self.architecture.count_parameters(shape)[self.counted]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of the family, for JSON."""
        return {name: value for name, value in self._asdict().items() if name != 'architecture'}

    def list_widths(self) -> list[int]:
        if self.head_dim:
            return list(range(self.head_dim, MAX_WIDTH + 1, self.head_dim))
        return [*range(64, 1024, 64), *range(1024, MAX_WIDTH + 1, 128)]


def find_shape(
    params: float, *, count: str, context: int, vocab: int, architecture: Architecture = GPT2
) -> Shape:
    """Find the shape whose parameters are nearest to `params`, with a usual width over layers.

    Widths are multiples of 64, or of 128 from 1,024 on; heads are 64 wide, or 128 from a width of
    2,048 on, unless the architecture sets their size.

    Args:
      params: the optimum, counted by `count`.
      count: a key of `Architecture.count_parameters`.
      context: tokens per sequence.
      vocab: size of the vocabulary.
      architecture: everything else.

    Raises:
      UserError: even the nearest shape is off by more than a factor of MAX_FACTOR.
    """
    family = ShapeFamily(count, context, vocab, None, None, architecture)

    def penalty(shape: Shape) -> float:
        error = abs(math.log(family.count_size(shape) / params))
        return error + ASPECT_WEIGHT * abs(math.log(shape.width / shape.layers / USUAL_ASPECT))

    shapes = (
        family.make_shape(layers, width)
        for width in family.list_widths()
        for layers in range(*_depth_range(width))
    )
    best = min(shapes, key=penalty)
    size = family.count_size(best)
    if not 1 / MAX_FACTOR <= size / params <= MAX_FACTOR:
        large = size > params
        which, hint = (
            ('smallest', 'give a smaller --vocab or more compute')
            if large
            else ('largest', 'give a smaller budget')
        )
        raise UserError(
            f'plan: the {which} shape with a vocabulary of {vocab:,} has {size:,} parameters '
            f'({count}), the optimum is {params:.4g}; {hint}'
        )
    return best


def nearest_shape(params: float, family: ShapeFamily) -> Shape:
    """Find the shape whose size is nearest to `params`, with a usual width over layers."""

    def penalty(shape: Shape) -> float:
        error = abs(math.log(family.count_size(shape) / params))
        if family.layers:
            return error
        aspect = shape.width / shape.layers / USUAL_ASPECT
        return error + SWEEP_ASPECT_WEIGHT * abs(math.log(aspect))

    shapes = (
        shape for width in family.list_widths() for shape in _match_depth(width, params, family)
    )
    return min(shapes, key=penalty)


def spread_shapes(params: float, span: float, number: int, family: ShapeFamily) -> list[Shape]:
    """List shapes evenly spaced in log N from params / span to params x span, ascending.

    If two of them would be the same shape, shapes in between, nearest to `params` first, fill up
    the list; it is shorter if there are too few.
    """

    def space_evenly(count: int) -> set[Shape]:
        exponents = (2 * i / (count - 1) - 1 for i in range(count))
        return {nearest_shape(params * span**exponent, family) for exponent in exponents}

    def distance(shape: Shape) -> float:
        return abs(math.log(family.count_size(shape) / params))

    shapes = space_evenly(number)
    if len(shapes) < number:
        finer = space_evenly(REFINEMENT * number) - shapes
        inside = [shape for shape in finer if distance(shape) <= math.log(span)]
        inside.sort(key=lambda shape: (distance(shape), shape))
        shapes |= set(inside[: number - len(shapes)])
    return sorted(shapes, key=family.count_size)


def shapes_beyond(edge: float, ratio: float, number: int, family: ShapeFamily) -> list[Shape]:
    """List up to `number` shapes beyond `edge`, at edge x ratio^k for k = 1, 2, ..., ascending."""
    shapes: list[Shape] = []
    for step in range(1, 4 * number):
        shape = nearest_shape(edge * ratio**step, family)
        size = family.count_size(shape)
        outside = size > edge * 1.001 if ratio > 1 else size < edge * 0.999
        if outside and shape not in shapes and len(shapes) < number:
            shapes.append(shape)
    return sorted(shapes, key=family.count_size)


def _depth_range(width: int) -> tuple[int, int]:
    """Return the depths with a usual width over layers, as the arguments of `range`."""
    return max(2, math.ceil(width / ASPECT[1])), max(2, width // ASPECT[0]) + 1


def _match_depth(width: int, params: float, family: ShapeFamily) -> list[Shape]:
    """Return shapes of the usual depths on both sides of the size, or of the family's depth."""
    if family.layers:
        return [family.make_shape(family.layers, width)]
    empty, one_layer = (family.count_size(family.make_shape(layers, width)) for layers in (0, 1))
    low, end = _depth_range(width)
    exact = min(max((params - empty) / (one_layer - empty), low), end - 1)
    return [
        family.make_shape(depth, width) for depth in sorted({math.floor(exact), math.ceil(exact)})
    ]


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
    raw_config = read_config_file(path)
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
