"""Which numbers and words make a model? The frozen, checked config that every part of it receives whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from gpt_jax import parametrization, schema

REMAT = ('none', 'dots', 'block')
DTYPES = ('float32', 'bfloat16')


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer. Defaults stand in configs/base.py, which also says what each field means."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab_size: int
    vocab_multiple: int
    context: int
    block: str
    norm: str
    norm_epsilon: float
    position: str
    attention: str
    attention_kernel: str
    attention_chunk: int
    feedforward: str
    activation: str
    bias: bool
    tied_head: bool
    dropout: float
    init_std: float
    parametrization: str
    base_width: int
    base_layers: int
    base_head_dim: int
    activation_dtype: str
    matmul_dtype: str
    scan_layers: bool
    remat: str
    loss_chunk: int

    def __post_init__(self) -> None:
        for name in ('layers', 'width', 'heads', 'kv_heads', 'head_dim', 'mlp_width', 'vocab_size', 'vocab_multiple',
                     'context', 'base_width', 'base_layers', 'base_head_dim'):  # fmt: skip
            value = getattr(self, name)
            schema.require(value > 0, f'model.{name}', f'must be positive, got {value}')
        for name in ('attention_chunk', 'loss_chunk'):
            value = getattr(self, name)
            schema.require(value >= 0, f'model.{name}', f'must be 0 (whole) or positive, got {value}')
        schema.require(
            self.heads % self.kv_heads == 0,
            'model.kv_heads',
            f'{self.kv_heads} does not divide the {self.heads} heads',
        )
        schema.require(0 <= self.dropout < 1, 'model.dropout', f'must be in [0, 1), got {self.dropout}')
        schema.require(self.init_std > 0, 'model.init_std', f'must be positive, got {self.init_std}')
        schema.require(self.norm_epsilon > 0, 'model.norm_epsilon', f'must be positive, got {self.norm_epsilon}')
        schema.choice(self.parametrization, parametrization.PARAMETRIZATIONS, 'model.parametrization')
        schema.choice(self.remat, REMAT, 'model.remat')
        schema.choice(self.activation_dtype, DTYPES, 'model.activation_dtype')
        schema.choice(self.matmul_dtype, DTYPES, 'model.matmul_dtype')

    @cached_property
    def dims(self) -> Mapping[str, int]:
        """The size of each letter that a weight can carry (legend in gpt_jax/dims.py)."""
        padded = -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple
        return {
            'N': self.layers,
            'D': self.width,
            'H': self.heads,
            'G': self.kv_heads,
            'K': self.head_dim,
            'F': self.mlp_width,
            'V': padded,
            'L': self.context,
        }


def resolve(values: Mapping[str, object], vocab_size: int) -> dict[str, object]:
    """Fills the fields whose 0 means 'derived from the others': kv_heads, head_dim, mlp_width, vocab_size, base_*.

    Raises:
      UserError: heads that do not divide the width, or a vocabulary smaller than the tokenizer's.
    """
    full = dict(values)
    width, heads = full.get('width'), full.get('heads')
    if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width > 0:
        if not full.get('head_dim'):
            schema.require(width % heads == 0, 'model.heads', f'{heads} heads do not divide the width {width}')
            full['head_dim'] = width // heads
        full['kv_heads'] = full.get('kv_heads') or heads
        full['mlp_width'] = full.get('mlp_width') or 4 * width
    for name in ('width', 'layers', 'head_dim'):
        full[f'base_{name}'] = full.get(f'base_{name}') or full.get(name)
    given = full.get('vocab_size')
    if isinstance(given, int):
        schema.require(
            given == 0 or given >= vocab_size,
            'model.vocab_size',
            f"{given} is smaller than the tokenizer's {vocab_size}; 0 takes the tokenizer's",
        )
        full['vocab_size'] = given or vocab_size
    return full
