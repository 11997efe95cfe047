"""Which numbers and words make a model? The frozen, checked config that every part of it receives whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from gpt_jax import parametrization, schema

REMAT = ('none', 'dots', 'block')
DTYPES = ('float32', 'bfloat16')
KINDS = ('full', 'window')  # of a layer's attention


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
    final_norm: bool
    position: str
    rotary_base: float
    rotary_fraction: float
    rotary_scaling: str
    rotary_factor: float
    rotary_original_context: int
    attention: str
    attention_kernel: str
    attention_chunk: int
    attention_pattern: tuple[str, ...]
    window: int
    attention_softcap: float
    attention_sink: bool
    qk_norm: bool
    feedforward: str
    activation: str
    experts: int
    experts_per_token: int
    shared_experts: int
    capacity_factor: float
    normalize_experts: bool
    load_balance: float
    router_z: float
    bias: bool
    qkv_bias: bool
    tied_head: bool
    logit_softcap: float
    z_loss: float
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
                     'context', 'base_width', 'base_layers', 'base_head_dim', 'init_std', 'norm_epsilon',
                     'rotary_base', 'rotary_original_context'):  # fmt: skip
            value = getattr(self, name)
            schema.require(value > 0, f'model.{name}', f'must be positive, got {value}')
        for name in ('attention_chunk', 'loss_chunk', 'window', 'attention_softcap', 'logit_softcap', 'experts',
                     'shared_experts', 'capacity_factor', 'load_balance', 'router_z', 'z_loss'):  # fmt: skip
            value = getattr(self, name)
            schema.require(value >= 0, f'model.{name}', f'must be 0 (off, or all) or positive, got {value}')
        schema.require(
            self.heads % self.kv_heads == 0,
            'model.kv_heads',
            f'{self.kv_heads} does not divide the {self.heads} heads',
        )
        schema.require(0 <= self.dropout < 1, 'model.dropout', f'must be in [0, 1), got {self.dropout}')
        schema.choice(self.parametrization, parametrization.PARAMETRIZATIONS, 'model.parametrization')
        schema.choice(self.remat, REMAT, 'model.remat')
        schema.choice(self.activation_dtype, DTYPES, 'model.activation_dtype')
        schema.choice(self.matmul_dtype, DTYPES, 'model.matmul_dtype')
        self._check_attention()
        self._check_experts()

    def _check_attention(self) -> None:
        schema.require(
            0 < self.rotary_fraction <= 1, 'model.rotary_fraction', f'must be in (0, 1], got {self.rotary_fraction}'
        )
        turned = self.turned_dims
        scaling = self.rotary_scaling if self.position == 'rotary' else 'none'
        schema.require(
            self.position != 'rotary' or (turned > 0 and turned % 2 == 0),
            'model.rotary_fraction',
            f'turns {turned} of the {self.head_dim} dims of a head; they are turned in pairs',
        )
        schema.require(self.rotary_factor >= 1, 'model.rotary_factor', f'must be at least 1, got {self.rotary_factor}')
        schema.require(
            scaling != 'yarn' or self.rotary_base > 1,
            'model.rotary_base',
            f'must be above 1 for yarn, which counts pairs of dims by its logarithm, got {self.rotary_base}',
        )
        schema.require(
            scaling != 'ntk' or turned > 2,
            'model.rotary_scaling',
            f'ntk stretches the pairs of dims after the first, and {turned} dims of a head are one; take linear',
        )
        schema.require(len(self.attention_pattern) > 0, 'model.attention_pattern', "empty; ('full',) is the plain one")
        for kind in self.attention_pattern:
            schema.choice(kind, KINDS, 'model.attention_pattern')
        schema.require(
            ('window' in self.attention_pattern) == (self.window > 0),
            'model.window',
            f'{self.window}, and attention_pattern is {self.attention_pattern}: a window goes with its layers',
        )

    def _check_experts(self) -> None:
        routed = self.feedforward == 'experts'
        schema.require(
            routed == (self.experts > 0),
            'model.experts',
            f'{self.experts}, and feedforward is {self.feedforward}: experts and their number go together',
        )
        schema.require(
            not routed or 0 < self.experts_per_token <= self.experts,
            'model.experts_per_token',
            f'{self.experts_per_token} of {self.experts} experts',
        )
        schema.require(
            not routed or self.experts_per_token > 1 or not self.normalize_experts,
            'model.normalize_experts',
            'True, and a token takes one expert: its weight would always be 1, and the router learn nothing from it',
        )
        schema.require(
            routed or self.shared_experts == 0,
            'model.shared_experts',
            f'{self.shared_experts}, and feedforward is {self.feedforward}; they stand beside routed experts',
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each layer's attention, 'full' or 'window'."""
        pattern = self.attention_pattern
        return tuple(pattern[n % len(pattern)] for n in range(self.layers))

    @property
    def turned_dims(self) -> int:
        """How many dims of each head rotary positions turn."""
        return int(self.head_dim * self.rotary_fraction)

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
            'E': self.experts,
            'U': self.shared_experts * self.mlp_width,
            'V': padded,
            'L': self.context,
        }


def resolve(values: Mapping[str, object], vocab_size: int) -> dict[str, object]:
    """Fills the fields whose 0 means 'derived from the others': kv_heads, head_dim, mlp_width, vocab_size, base_*,
    rotary_original_context.

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
        gated = -(-width // 3) * 8  # three matrices of 8/3 are as many weights as two of 4
        full['mlp_width'] = full.get('mlp_width') or (4 * width if full.get('feedforward') == 'mlp' else gated)
    full['rotary_original_context'] = full.get('rotary_original_context') or full.get('context')
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
