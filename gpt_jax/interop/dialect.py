"""How does somebody else's config.json say a model? Its words, and what a layout of weights has no choice in.

Reading takes every field or refuses it (fields.py). What a layout cannot say otherwise, `wants` lists: on the way in it
is what the model section gets, and on the way out what a model must have.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpt_jax.interop.fields import Fields
from gpt_jax.model.config import ModelConfig
from gpt_jax.parametrization import forward

Values = dict[str, Any]

# Their words, the preferred one first, and ours.
ACTIVATIONS = {
    'silu': 'silu', 'swish': 'silu', 'gelu_new': 'gelu', 'gelu_pytorch_tanh': 'gelu', 'gelu_fast': 'gelu',
    'gelu': 'gelu_exact', 'gelu_python': 'gelu_exact', 'relu': 'relu', 'relu2': 'squared_relu', 'sigmoid': 'sigmoid',
    'linear': 'identity',
}  # fmt: skip

# The fields of the model section that a layout may set otherwise; those not here are how it is computed or trained.
PLAIN: Values = {
    'vocab_multiple': 1, 'block': 'pre_norm', 'final_norm': True, 'rotary_base': 10_000.0, 'rotary_fraction': 1.0,
    'rotary_scaling': 'none', 'rotary_factor': 1.0, 'rotary_original_context': 0, 'attention': 'multi_head',
    'attention_pattern': ['full'], 'window': 0, 'attention_softcap': 0.0, 'attention_sink': False, 'qk_norm': False,
    'experts': 0, 'experts_per_token': 2, 'shared_experts': 0, 'capacity_factor': 0.0, 'normalize_experts': True,
    'qkv_bias': False, 'logit_softcap': 0.0, 'parametrization': 'standard', 'base_width': 0, 'base_layers': 0,
    'base_head_dim': 0,
}  # fmt: skip
OFF = {'attention_softcap': (0.0,), 'logit_softcap': (0.0,), 'attention_sink': (False,)}  # what no layout has
FULL, WINDOW, MIXED = frozenset({'full'}), frozenset({'window'}), frozenset({'full', 'window'})


class Dialect(NamedTuple):
    """How one kind of model is said.

    wants: our fields that it has no choice in, or little, with what they may be.
    checks: by field of ours, what must hold of a model beside.
    patterns: which sets of kinds of attention its layers may have.
    read: takes the fields; gives the model section, but for what PLAIN and `wants` say.
    write: the config.json of a model that fits, but for what is the same in all.
    """

    wants: Mapping[str, tuple[Any, ...]]
    checks: Mapping[str, Callable[[ModelConfig], bool]]
    patterns: tuple[frozenset[str], ...]
    read: Callable[[Fields], Values]
    write: Callable[[ModelConfig], Values]

    def section(self, fields: Fields) -> Values:
        """The model section of a config, but for how the model is computed and trained.

        Raises:
          UserError: a field is missing, not known, or says something that the model does not compute.
        """
        made = PLAIN | {field: allowed[0] for field, allowed in self.wants.items()} | self.read(fields)
        fields.finish()
        return made


def misfits(dialect: Dialect, model: ModelConfig) -> list[str]:
    """Why this model cannot be said so: 'field: value' for each of our fields that stands in the way."""
    found = [field for field, allowed in dialect.wants.items() if getattr(model, field) not in allowed]
    found += [field for field, holds in dialect.checks.items() if not holds(model)]
    found += [] if frozenset(model.kinds) in dialect.patterns else ['attention_pattern']
    found += [] if set(forward(model)) == {1.0} else ['parametrization']  # its multipliers have no name there
    return [f'{field}: {getattr(model, field)!r}' for field in found]


def theirs(words: Mapping[str, str], ours: str) -> str:
    """Their word for ours, the preferred one; raises StopIteration where they have none."""
    return next(name for name, word in words.items() if word == ours)
