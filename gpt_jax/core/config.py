"""Config fields, each declared once: type, default, allowed values and documentation.

`base_config()` gives the defaults as a ConfigDict, `parse_config` turns nested dicts into the
frozen, checked `Config`, and the reference page is generated from `describe_fields()`.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gpt_jax.core import model_counts, template
from gpt_jax.core.config_fields import (
    AT_LEAST_ONE,
    BELOW_ONE,
    MAX_INT64,
    NON_NEGATIVE,
    POSITIVE,
    PROPER_SHARE,
    SEED,
    SHARE,
    UNIT,
    ConfigSection,
    Range,
    check_name,
    field,
    from_dict,
    nearest,
    require,
)
from gpt_jax.core.errors import UserError
from gpt_jax.core.files import expand_home

RawConfig = dict[str, Any]  # nested dicts of JSON's types, not yet checked

DTYPES = ('float32', 'bfloat16')
WEIGHT_DTYPES = ('float32', 'bfloat16', 'int8', 'int4')  # dtypes of matrices at inference
MESH_AXES = ('dcn', 'data', 'fsdp', 'expert', 'pipeline', 'context', 'tensor')  # slowest first
AUTO = 'auto'  # value of mesh.strategy that lets the library choose the mesh
REMAT_POLICIES = ('none', 'dots', 'block')
LAYER_KINDS = ('full', 'window')  # kinds of attention
SMALLEST_BPE = 257  # every byte, and the end of a document
MAX_CHOICES = 16  # maximum number of answers to one multiple-choice question
# Reports of the evaluation suite that read the training text if no corpus is given.
REPORTS_ON_TEXT = ('text', 'degeneration', 'memorization')
WRITTEN = 'written'  # placeholder in task.program for the answer that the model wrote


@dataclass(frozen=True)
class ModelConfig(ConfigSection):
    """A decoder-only transformer.

    In kv_heads, head_dim, mlp_width, vocab_size, base_*, rotary_original_context and
    attention_scale_dim, 0 means "derive it"; `resolve_model` fills these in before this class
    checks them, so `allowed` applies to the derived value.
    """

    section = 'model'

    layers: int = field(4, 'Number of layers.', allowed=POSITIVE, largest=10_000)
    width: int = field(128, 'Width of the residual stream.', allowed=POSITIVE)
    heads: int = field(4, 'Query heads per layer.', allowed=POSITIVE)
    kv_heads: int = field(
        0, 'Key/value heads (grouped-query attention); 0: as many as heads.', allowed=POSITIVE
    )
    head_dim: int = field(0, 'Dimensions of one head; 0: width / heads.', allowed=POSITIVE)
    mlp_width: int = field(
        0,
        'Hidden width of a feed-forward layer (of one expert); 0: 4 x width, or if gated '
        '8/3 x width rounded up to a multiple of 8.',
        allowed=POSITIVE,
    )
    vocab_size: int = field(0, "Vocabulary size; 0: the tokenizer's.", allowed=POSITIVE)
    vocab_multiple: int = field(
        1,
        'Embedding rows are padded to a multiple of this; 128 is fast on most hardware.',
        allowed=POSITIVE,
    )
    context: int = field(256, 'Context length in tokens.', allowed=POSITIVE)
    block: str = field(
        'pre_norm',
        'Order of norm and branches: pre_norm, post_norm (GPT-1), output_norm (of what a branch '
        'adds, OLMo 2), sandwich_norm (before and after a branch, Gemma 2), parallel (attention '
        'and feed-forward read the same norm) or parallel_two_norms (each its own, GPT-NeoX).',
        choices=(
            'pre_norm',
            'post_norm',
            'output_norm',
            'sandwich_norm',
            'parallel',
            'parallel_two_norms',
        ),
        extensible=True,
    )
    norm: str = field(
        'layer',
        'Layer norm or RMS norm; zero_centered_rms stores its scale as the difference from 1.',
        choices=('layer', 'rms', 'zero_centered_rms'),
        extensible=True,
    )
    norm_epsilon: float = field(1e-5, 'Added to the variance in norms.', allowed=POSITIVE)
    final_norm: bool = field(True, 'Whether a norm precedes the head.')
    scale_embedding: bool = field(
        False, 'Multiply the token embedding by the root of width (Vaswani et al. 2017; Gemma).'
    )
    position: str = field(
        'learned',
        'Position encoding.',
        choices=('learned', 'rotary', 'alibi', 'none'),
        extensible=True,
    )
    rotary_base: float = field(
        10_000.0, 'Rotary wavelengths run from 2 pi to 2 pi x this.', allowed=POSITIVE
    )
    rotary_fraction: float = field(
        1.0, "Share of each head's dimensions that are rotated.", allowed=SHARE
    )
    rotary_scaling: str = field(
        'none',
        'How rotary positions are stretched to a longer context.',
        choices=('none', 'linear', 'ntk', 'llama3', 'yarn'),
        extensible=True,
    )
    rotary_factor: float = field(
        1.0, 'Ratio of the context to the original one, for rotary_scaling.', allowed=AT_LEAST_ONE
    )
    rotary_original_context: int = field(
        0, 'Context length before stretching; 0: context.', allowed=POSITIVE
    )
    rotary_rotations: tuple[float, ...] = field(
        (),
        'llama3 and yarn: rotations over the original context above which a pair of dimensions is '
        'unchanged and below which it is stretched; empty: (4, 1) for llama3, (32, 1) for yarn.',
    )
    rotary_magnitude: float = field(
        0.0,
        "yarn: factor on queries and keys; 0: 0.1 ln(rotary_factor) + 1, as in yarn's paper.",
        allowed=NON_NEGATIVE,
    )
    attention: str = field(
        'multi_head', 'Attention layer.', choices=('multi_head',), extensible=True
    )
    attention_kernel: str = field(
        'chunked',
        'chunked (XLA, any device), cudnn (NVIDIA, bfloat16) or splash (TPU).',
        choices=('chunked', 'cudnn', 'splash'),
        extensible=True,
    )
    attention_chunk: int = field(
        64,
        'Queries per chunk of the chunked kernel and per block of splash; 0: all at once.',
        allowed=NON_NEGATIVE,
    )
    attention_pattern: tuple[str, ...] = field(
        ('full',),
        "Kinds of attention, repeated over the layers; ('full', 'window') as in GPT-3.",
        choices=LAYER_KINDS,
    )
    window: int = field(
        0, 'Keys that a query in a window layer sees, its own included.', allowed=NON_NEGATIVE
    )
    window_rotary_base: float = field(
        0.0,
        'Rotary base of window layers, whose positions are then not stretched; 0: as in full '
        'layers.',
        allowed=NON_NEGATIVE,
    )
    attention_scale_dim: int = field(
        0, 'Attention scores are divided by the root of this; 0: head_dim.', allowed=POSITIVE
    )
    attention_layer_scaling: bool = field(
        False, 'Divide attention scores by the number of the layer too, the first being 1.'
    )
    attention_softcap: float = field(
        0.0, 'tanh soft cap on attention logits; 0 disables.', allowed=NON_NEGATIVE
    )
    attention_sink: bool = field(
        False, 'Add a learned logit per head that absorbs attention weight and has no value.'
    )
    qk_norm: bool = field(False, 'Apply an RMS norm to queries and keys.')
    qk_norm_per_head: bool = field(
        True, 'Whether qk_norm is of each head; otherwise of all heads together (OLMo 2).'
    )
    feedforward: str = field(
        'mlp',
        'mlp, gated (SwiGLU with activation silu) or experts (routed gated layers).',
        choices=('mlp', 'gated', 'experts'),
        extensible=True,
    )
    activation: str = field(
        'gelu',
        'Activation function; gelu is the tanh approximation, gelu_exact the exact form.',
        choices=('gelu', 'gelu_exact', 'relu', 'squared_relu', 'silu', 'sigmoid', 'identity'),
        extensible=True,
    )
    experts: int = field(
        0, 'Routed experts per layer, for feedforward experts.', allowed=NON_NEGATIVE
    )
    experts_per_token: int = field(2, 'Experts that each token is routed to.')
    shared_experts: int = field(0, 'Experts that process every token.', allowed=NON_NEGATIVE)
    capacity_factor: float = field(
        0.0,
        'Capacity of an expert in training, relative to its fair share; 0: no token is dropped.',
        allowed=NON_NEGATIVE,
    )
    normalize_experts: bool = field(True, 'Whether the weights of the chosen experts sum to 1.')
    load_balance: float = field(
        0.01, 'Coefficient of the load-balancing loss of the router.', allowed=NON_NEGATIVE
    )
    router_z: float = field(0.001, "Coefficient of the router's z-loss.", allowed=NON_NEGATIVE)
    bias: bool = field(True, 'Whether norms and matrices have biases.')
    qkv_bias: bool = field(False, 'Whether query, key and value have biases even if bias is False.')
    tied_head: bool = field(True, 'Whether the head shares the weights of the token embedding.')
    logit_softcap: float = field(
        0.0, 'tanh soft cap on the logits; 0 disables.', allowed=NON_NEGATIVE
    )
    z_loss: float = field(
        0.0, 'Coefficient of log(Z)^2, which keeps the log-partition near 0.', allowed=NON_NEGATIVE
    )
    dropout: float = field(
        0.0, 'Dropout rate on the embedding and on both branches of a block.', allowed=BELOW_ONE
    )
    init_std: float = field(0.02, 'Standard deviation of initial matrices.', allowed=POSITIVE)
    parametrization: str = field(
        'standard',
        'How init, learning rates, decay and epsilon depend on the shape.',
        choices=('standard', 'mup', 'completep'),
    )
    base_width: int = field(
        0,
        'mup, completep: width at which init_std, rate and decay were tuned; 0: width.',
        allowed=POSITIVE,
    )
    base_layers: int = field(
        0, 'completep: number of layers at which they were tuned; 0: layers.', allowed=POSITIVE
    )
    base_head_dim: int = field(
        0, 'mup, completep: head_dim at which they were tuned; 0: head_dim.', allowed=POSITIVE
    )
    activation_dtype: str = field(
        'float32', 'Dtype of the activations between operations.', choices=DTYPES
    )
    matmul_dtype: str = field(
        'float32', 'Dtype of the operands of matrix products; sums are float32.', choices=DTYPES
    )
    scan_layers: bool = field(
        False, 'Run the layers as one loop: compiles faster, best for deep models.'
    )
    remat: str = field(
        'none',
        'Rematerialization: none, dots (keep matrix products) or block (keep the inputs of '
        'blocks).',
        choices=REMAT_POLICIES,
    )
    loss_chunk: int = field(
        0, 'Positions whose logits are computed at a time; 0: all.', allowed=NON_NEGATIVE
    )

    def check(self) -> None:
        require(
            self.heads % self.kv_heads == 0,
            'model.kv_heads',
            f'must divide the {self.heads} heads, got {self.kv_heads}',
        )
        require(
            not self.scale_embedding or self.parametrization == 'standard',
            'model.scale_embedding',
            f'must be False with parametrization {self.parametrization}, where the embedding must '
            'not grow with the width',
        )
        self._check_attention()
        self._check_experts()

    def _check_attention(self) -> None:
        rotary = self.position == 'rotary'
        rotated = self.rotary_dims
        scaling = self.rotary_scaling if rotary else 'none'
        require(
            not rotary or (rotated > 0 and rotated % 2 == 0),
            'model.rotary_fraction',
            f"must rotate an even number of dimensions, got {rotated} of a head's {self.head_dim}",
        )
        require(
            scaling != 'yarn' or self.rotary_base > 1,
            'model.rotary_base',
            f'must be above 1 for rotary_scaling yarn, got {self.rotary_base}',
        )
        require(
            not self.rotary_rotations
            or (len(self.rotary_rotations) == 2 and min(self.rotary_rotations) > 0),
            'model.rotary_rotations',
            f'must be two positive numbers or empty, got {self.rotary_rotations}',
        )
        require(
            scaling != 'ntk' or rotated > 2,
            'model.rotary_scaling',
            f'ntk must have more than 2 rotated dimensions, got {rotated}; use linear',
        )
        require(
            len(self.attention_pattern) > 0,
            'model.attention_pattern',
            "must not be empty; use ('full',) for plain attention",
        )
        require(
            ('window' in self.attention_pattern) == (self.window > 0),
            'model.window',
            f'must be positive exactly when attention_pattern has window layers, got {self.window} '
            f'with {self.attention_pattern}',
        )
        require(
            self.qk_norm or self.qk_norm_per_head,
            'model.qk_norm_per_head',
            'must be True unless qk_norm is True',
        )
        require(
            self.attention_scale_dim == self.head_dim or self.parametrization == 'standard',
            'model.attention_scale_dim',
            f'must be head_dim with parametrization {self.parametrization}, which scales scores '
            f'itself, got {self.attention_scale_dim}; 0 takes head_dim',
        )

    def _check_experts(self) -> None:
        routed = self.feedforward == 'experts'
        require(
            routed == (self.experts > 0),
            'model.experts',
            f'must be positive exactly when feedforward is experts, got {self.experts} with '
            f'{self.feedforward}',
        )
        require(
            not routed or 0 < self.experts_per_token <= self.experts,
            'model.experts_per_token',
            f'must be in [1, {self.experts}], got {self.experts_per_token}',
        )
        require(
            not routed or self.experts_per_token > 1 or not self.normalize_experts,
            'model.normalize_experts',
            'must be False with experts_per_token 1; else the weight would always be 1 and the '
            'router would get no gradient',
        )
        require(
            routed or self.shared_experts == 0,
            'model.shared_experts',
            f'must be 0 unless feedforward is experts, got {self.shared_experts}',
        )

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """The kind of each layer's attention, 'full' or 'window'."""
        pattern = self.attention_pattern
        return tuple(pattern[n % len(pattern)] for n in range(self.layers))

    @property
    def rotary_dims(self) -> int:
        """How many dimensions of each head are rotated."""
        return int(self.head_dim * self.rotary_fraction)

    @cached_property
    def dims(self) -> Mapping[str, int]:
        """The size of each shape letter that a weight can carry (legend in model/weights.py)."""
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


def resolve_model(values: Mapping[str, object], vocab_size: int) -> dict[str, object]:
    """Fill in the fields of the model section whose 0 means "derive it from the others".

    Args:
      values: the model section, raw.
      vocab_size: the tokenizer's vocabulary size.

    Raises:
      UserError: the heads do not divide the width, or the vocabulary is smaller than the
        tokenizer's.
    """
    full = dict(values)
    width, heads = full.get('width'), full.get('heads')
    if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width > 0:
        if not full.get('head_dim'):
            require(
                width % heads == 0, 'model.heads', f'must divide the width {width}, got {heads}'
            )
            full['head_dim'] = width // heads
        full['kv_heads'] = full.get('kv_heads') or heads
        gated = -(-width // 3) * 8  # three matrices of 8/3 x width are as large as two of 4 x width
        plain = full.get('feedforward') == 'mlp'
        full['mlp_width'] = full.get('mlp_width') or (4 * width if plain else gated)
    full['rotary_original_context'] = full.get('rotary_original_context') or full.get('context')
    full['attention_scale_dim'] = full.get('attention_scale_dim') or full.get('head_dim')
    for name in ('width', 'layers', 'head_dim'):
        full[f'base_{name}'] = full.get(f'base_{name}') or full.get(name)
    configured = full.get('vocab_size')
    if isinstance(configured, int):
        require(
            configured == 0 or configured >= vocab_size,
            'model.vocab_size',
            f"must be at least the tokenizer's {vocab_size}, got {configured}; "
            "0 takes the tokenizer's",
        )
        full['vocab_size'] = configured or vocab_size
    return full


_TEXT_SOURCE = re.compile(
    r'tfds:[a-z0-9_]+(/[A-Za-z0-9_.:-]+)?|files:.+|(?!tfds:|files:)[\w.]+:\w+', re.DOTALL
)


@dataclass(frozen=True)
class DataConfig(ConfigSection):
    """Training text, held-out validation text, and the tokenizer."""

    section = 'data'

    source: str = field(
        'tfds:python_stdlib',
        'Training text: tfds:NAME[/CONFIG], files:GLOB[,GLOB] (plain text, or rows in .jsonl .json '
        ".csv .tsv .parquet; also .gz .bz2 .xz .zst), or a dotted path 'package.module:function' "
        'to a function that yields documents.',
    )
    validation_source: str = field(
        '', "Validation text, like source; empty: the source's own split, or text held out from it."
    )
    validation_fraction: float = field(
        0.1, 'Share that is held out if the source has no validation split.', allowed=PROPER_SHARE
    )
    holdout: str = field(
        'documents',
        'What is held out: documents (chosen by a hash) or tail (the end of the text).',
        choices=('documents', 'tail'),
    )
    text_field: str = field(
        'text', 'Column that holds the text, in JSON, CSV, TSV, Parquet or TFDS.'
    )
    separator: str = field(
        '',
        "What separates the documents of plain text, such as '<|endoftext|>' or '\\n\\n' (\\n and "
        '\\t may be written so in a flag); empty: a file is one document.',
    )
    tokenizer: str = field(
        'bytes',
        'bytes, bpe:SIZE (trained on the source), the path of a tokenizer.json, or a folder with '
        'vocab.json and merges.txt.',
        path=True,
    )
    packing: str = field(
        'concatenate',
        'concatenate (windows of one stream) or isolate (attention and positions restart at each '
        'document).',
        choices=('concatenate', 'isolate'),
    )
    cache: str = field('', "Folder of tokenized text; empty: the user's cache folder.", path=True)

    def check(self) -> None:
        for name in ('source', 'validation_source'):
            value = getattr(self, name)
            good = _TEXT_SOURCE.fullmatch(value) or (name != 'source' and not value)
            require(
                bool(good),
                f'data.{name}',
                "must be 'tfds:NAME[/CONFIG]', 'files:GLOB[,GLOB...]' or "
                f"'package.module:function', got {value!r}",
            )
        require(
            bool(self.text_field),
            'data.text_field',
            "must name the column that holds the text, such as 'text'; got ''",
        )
        require(
            not self.separator or self.source.startswith('files:'),
            'data.separator',
            f"must be '' unless data.source is 'files:GLOB', got {self.separator!r}",
        )
        require(
            bool(self.tokenizer), 'data.tokenizer', "must be 'bytes', 'bpe:SIZE' or a path, got ''"
        )
        if self.tokenizer.startswith('bpe:'):
            size = self.tokenizer.removeprefix('bpe:')
            good = size.isascii() and size.isdecimal() and int(size) >= SMALLEST_BPE
            require(
                good,
                'data.tokenizer',
                f'must be bpe:SIZE with an integer SIZE of {SMALLEST_BPE} or more, got {size!r}',
            )


def cache_folder(cache: str) -> str:
    """Return the absolute path of `data.cache`; '' is gpt_jax/data in the user's cache folder."""
    if cache:
        return os.path.abspath(cache)
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return os.path.join(home, 'gpt_jax', 'data')


TASK_KINDS = (
    'none',
    'completion',
    'classification',
    'multiple_choice',
    'token_classification',
    'preference',
)
# Fields that each kind requires, and those that it may use; setting any other field is an error.
REQUIRED_FIELDS: dict[str, tuple[str, ...]] = {
    'none': (),
    'completion': (),  # messages, or an answer
    'classification': ('prompt', 'label', 'labels'),
    'multiple_choice': ('prompt', 'choices', 'label'),
    'token_classification': ('tokens_column', 'tags_column', 'labels'),
    'preference': ('prompt', 'chosen', 'rejected'),
}
OPTIONAL_FIELDS: dict[str, tuple[str, ...]] = {
    'none': (),
    'completion': (
        'prompt',
        'answer',
        'references',
        'label',
        'labels',
        'messages',
        'chat',
        'program',
    ),
    'classification': ('text_pair', 'symmetric', 'lm_loss_weight'),
    'multiple_choice': ('labels', 'lm_loss_weight'),
    'token_classification': ('lm_loss_weight',),
    'preference': ('chat',),
}
SHARED_FIELDS = ('source', 'validation_source', 'max_examples', 'metrics')  # every kind but 'none'
# Fields whose defaults are not empty, so they are set for every kind.
ALWAYS_SET = ('kind', 'validation_fraction', 'truncation_side', 'beta', 'eval_generations')
TEMPLATE_FIELDS = ('prompt', 'answer', 'text_pair', 'chosen', 'rejected', 'program')
COLUMN_FIELDS = ('references', 'label', 'tokens_column', 'tags_column', 'messages')
_TASK_SOURCE = re.compile(
    r'tfds:[a-z0-9_]+(/[A-Za-z0-9_.:-]+)?|synthetic:[a-z0-9_]+|files:.+', re.DOTALL
)


@dataclass(frozen=True)
class TaskConfig(ConfigSection):
    """The task that a model is fine-tuned and scored on.

    Templates are text with the names of a row's columns in braces: '{question}',
    '{answers[text][0]}'; '{{' is a literal brace.
    """

    section = 'task'

    kind: str = field(
        'none',
        'none (pre-training on text), completion, classification, multiple_choice, '
        'token_classification or preference (DPO).',
        choices=TASK_KINDS,
    )
    source: str = field(
        '',
        'Examples: tfds:NAME[/CONFIG], synthetic:NAME (gpt_jax/tasks/synthetic/) or '
        'files:GLOB[,GLOB] (.jsonl .json .csv .tsv .parquet; also .gz .bz2 .xz .zst).',
    )
    validation_source: str = field(
        '',
        "Validation examples, like source; empty: the source's own split, or rows held out from "
        'it.',
    )
    validation_fraction: float = field(
        0.1, 'Share of rows that is held out, chosen by a hash.', allowed=PROPER_SHARE
    )
    prompt: str = field('', "Template of the prompt; columns in braces, '{question}'.")
    answer: str = field('', "completion: template of the answer; {label} is the label's word.")
    references: str = field(
        '', 'completion: column that lists all correct answers; empty: only the answer is correct.'
    )
    text_pair: str = field('', 'classification: template of the second text of a pair.')
    symmetric: bool = field(
        False, 'classification: read the pair in both orders, as for similarity.'
    )
    choices: tuple[str, ...] = field(
        (),
        "multiple_choice: one template per choice, or only '{COLUMN}', a column that lists them.",
        items=str,
    )
    label: str = field(
        '',
        'classification, multiple_choice, completion: column of the class or correct choice, by '
        'number or by word.',
    )
    labels: tuple[str, ...] = field((), 'Words of the classes or tags, class 0 first.', items=str)
    tokens_column: str = field('', 'token_classification: column that lists the words.')
    tags_column: str = field('', 'token_classification: column that lists their tags.')
    chosen: str = field('', 'preference: template of the better answer.')
    rejected: str = field('', 'preference: template of the worse answer.')
    messages: str = field(
        '',
        "completion: column of turns, {'role': 'user', 'content': ...}; the assistant's turns are "
        'learned.',
    )
    chat: bool = field(False, "Apply the tokenizer's chat template to prompts and answers.")
    truncation_side: str = field(
        'left',
        'Side from which a prompt that does not fit into the context is cut.',
        choices=('left', 'right'),
    )
    program: str = field(
        '', 'completion: program with {written} for the answer; it passes or fails (pass@k).'
    )
    max_examples: int = field(0, 'Training examples used; 0: all.', allowed=NON_NEGATIVE)
    eval_generations: int = field(
        200,
        'completion: validation examples whose answers are generated and scored at the end; 0: '
        'none.',
        allowed=NON_NEGATIVE,
    )
    metrics: tuple[str, ...] = field(
        (),
        'Metrics of gpt_jax/tasks/task_metrics.py; the first one chooses the best checkpoint '
        '(except for completion, where the loss does).',
        items=str,
    )
    lm_loss_weight: float = field(
        0.0,
        "Weight of the language-modeling loss relative to the task's (GPT-1: 0.5).",
        allowed=NON_NEGATIVE,
    )
    beta: float = field(
        0.1, 'preference: strength of the pull toward the initial model (DPO).', allowed=POSITIVE
    )

    def check(self) -> None:
        self._check_fields_in_use()
        if self.kind == 'none':
            return
        for name in ('source', 'validation_source'):
            value = getattr(self, name)
            good = _TASK_SOURCE.fullmatch(value) or (name != 'source' and not value)
            require(
                bool(good),
                f'task.{name}',
                f"must be 'tfds:NAME[/CONFIG]', 'synthetic:NAME' or 'files:GLOB[,GLOB...]', got "
                f'{value!r}',
            )
        self._check_templates()
        require(len(set(self.labels)) == len(self.labels), 'task.labels', 'must not repeat a word')
        require(len(self.labels) != 1, 'task.labels', 'must list at least two words')
        if self.kind == 'completion':
            self._check_completion()
            self._check_program()
        require(
            not self.symmetric or self.text_pair != '',
            'task.symmetric',
            'must be False without task.text_pair',
        )

    def _check_fields_in_use(self) -> None:
        """Check that the fields that the kind requires are set, and none that it does not use."""
        shared = SHARED_FIELDS if self.kind != 'none' else ()
        needed = (*REQUIRED_FIELDS[self.kind], *(('source',) if self.kind != 'none' else ()))
        for name in needed:
            require(
                bool(getattr(self, name)),
                f'task.{name}',
                f'must be set for task.kind {self.kind!r}',
            )
        used = {*ALWAYS_SET, *needed, *OPTIONAL_FIELDS[self.kind], *shared}
        for declared in dataclasses.fields(self):
            unused = declared.name not in used and bool(getattr(self, declared.name))
            kinds = [
                kind
                for kind in TASK_KINDS
                if declared.name in (*REQUIRED_FIELDS[kind], *OPTIONAL_FIELDS[kind])
            ]
            hint = f'used by {", ".join(kinds)}' if kinds else 'set task.kind'
            require(
                not unused,
                f'task.{declared.name}',
                f'must not be set for task.kind {self.kind!r}; {hint}',
            )

    def _check_templates(self) -> None:
        for name in TEMPLATE_FIELDS:
            template.parse_template(getattr(self, name), f'task.{name}')
        for name in COLUMN_FIELDS:
            if getattr(self, name):
                template.parse_path(getattr(self, name), f'task.{name}')
        for choice in self.choices:
            parts = template.parse_template(choice, 'task.choices').parts
            a_column = len(parts) == 1 and isinstance(parts[0], template.ColumnPath)
            require(
                len(self.choices) > 1 or a_column,
                'task.choices',
                "must list at least two templates, or '{COLUMN}', a column that lists the choices",
            )

    def _check_program(self) -> None:
        columns = template.parse_template(self.program, 'task.program').columns
        good = not self.program or self.program.count(f'{{{WRITTEN}}}') == 1
        require(
            good,
            'task.program',
            f"must contain {{{WRITTEN}}} once, for the model's answer, got columns {columns}",
        )
        executed = [name for name in self.metrics if name.startswith('pass@')]
        require(
            bool(self.program) or not executed,
            'task.metrics',
            f'{", ".join(executed)} runs a program; set task.program',
        )

    def _check_completion(self) -> None:
        """Check that either a column of turns or an answer template is set, but not both."""
        require(
            bool(self.messages or self.answer),
            'task.answer',
            "must be set for task.kind 'completion', or set task.messages",
        )
        for name in ('prompt', 'answer', 'references', 'label', 'labels'):
            unused = self.messages != '' and bool(getattr(self, name))
            require(not unused, f'task.{name}', 'must not be set together with task.messages')
        for name, other in (('label', 'labels'), ('labels', 'label')):
            alone = bool(getattr(self, name)) and not getattr(self, other)
            require(
                not alone,
                f'task.{other}',
                f"must be set with task.{name}; {{label}} in task.answer is the label's word",
            )


@dataclass(frozen=True)
class SuiteConfig(ConfigSection):
    """Which tasks are evaluated during training."""

    section = 'suite'

    tasks: tuple[str, ...] = field(
        (),
        'Tasks: names from the catalog (gpt_jax/tasks/catalog.py), or paths of config files.',
        items=str,
        path=True,
    )
    every: int = field(0, 'Steps between evaluations; 0: only at the end.', allowed=NON_NEGATIVE)
    max_examples: int = field(
        200, 'Validation examples per task, always the same ones; 0: all.', allowed=NON_NEGATIVE
    )
    num_fewshot: int = field(
        0, 'Training examples with answers shown before each question.', allowed=Range(0, 64)
    )
    seed: int = field(0, 'Chooses the few-shot examples.', allowed=SEED, largest=MAX_INT64)
    contamination_ngram: int = field(
        13, 'n-gram length for contamination checks; 0 disables.', allowed=NON_NEGATIVE
    )

    def check(self) -> None:
        require(len(set(self.tasks)) == len(self.tasks), 'suite.tasks', 'must not repeat a task')
        require(bool(self.tasks) or self.every == 0, 'suite.every', 'must be 0 without suite.tasks')


@dataclass(frozen=True)
class FinetuneConfig(ConfigSection):
    """Which parameters are trained, and LoRA adapters (names: finetune/parameter_names.py)."""

    section = 'finetune'

    train: tuple[str, ...] = field(
        (), "Parameters that are trained: 'norm', 'blocks[6:12]'; empty: all.", items=str
    )
    freeze: tuple[str, ...] = field((), 'Parameters excluded from training.', items=str)
    layer_decay: float = field(
        1.0, "Ratio of a layer's learning rate to that of the layer above it.", allowed=SHARE
    )
    rank: int = field(0, 'Rank of the LoRA adapters; 0: none.', allowed=NON_NEGATIVE)
    alpha: float = field(
        16.0, 'LoRA alpha: an adapter is scaled by alpha / rank.', allowed=POSITIVE
    )
    targets: tuple[str, ...] = field(
        ('query', 'value'), "Matrices with adapters, by name; 'all-linear': all.", items=str
    )
    dropout: float = field(0.0, "Dropout rate on the adapters' input.", allowed=BELOW_ONE)
    rank_stabilized: bool = field(False, 'Scale by alpha / sqrt(rank) instead (rsLoRA).')

    def check(self) -> None:
        require(
            not self.rank or bool(self.targets),
            'finetune.targets',
            "must not be empty with finetune.rank; for example ('query', 'value')",
        )


@dataclass(frozen=True)
class OptimizerConfig(ConfigSection):
    """The optimizer and its learning-rate schedule."""

    section = 'optimizer'

    name: str = field('adamw', 'The optimizer.', choices=('adamw', 'sgd'), extensible=True)
    learning_rate: float = field(1e-3, 'Peak learning rate.', allowed=POSITIVE)
    beta1: float = field(0.9, 'Decay rate of the first moment; momentum of sgd.', allowed=BELOW_ONE)
    beta2: float = field(0.95, 'Decay rate of the second moment.', allowed=BELOW_ONE)
    epsilon: float = field(1e-8, 'Added to the root of the second moment.', allowed=POSITIVE)
    weight_decay: float = field(
        0.1,
        'Decoupled weight decay of matrices and embeddings; not of scales and biases.',
        allowed=NON_NEGATIVE,
    )
    grad_clip_norm: float = field(
        1.0, 'Maximum global norm of the gradient; 0 disables.', allowed=NON_NEGATIVE
    )
    schedule: str = field(
        'cosine',
        'Learning-rate schedule; wsd is constant, then a cooldown.',
        choices=('cosine', 'linear', 'wsd', 'constant'),
        extensible=True,
    )
    warmup_fraction: float = field(
        0.02, 'Share of the steps during which the rate rises.', allowed=UNIT
    )
    decay_end_fraction: float = field(
        1.0,
        'cosine, linear: share of the run at whose end the final rate is reached.',
        allowed=SHARE,
    )
    cooldown_fraction: float = field(
        0.2, 'wsd: share of the run, at its end, during which the rate falls.', allowed=SHARE
    )
    final_lr_fraction: float = field(0.1, 'Ratio of the final rate to the peak rate.', allowed=UNIT)

    def check(self) -> None:
        require(
            self.schedule not in ('cosine', 'linear')
            or self.warmup_fraction < self.decay_end_fraction,
            'optimizer.warmup_fraction',
            'must be below optimizer.decay_end_fraction, so that the rate can decay, got '
            f'{self.warmup_fraction}',
        )
        require(
            self.schedule != 'wsd' or self.warmup_fraction + self.cooldown_fraction <= 1,
            'optimizer.cooldown_fraction',
            'and optimizer.warmup_fraction must not exceed 1 together',
        )


def count_cooldown_steps(cooldown_fraction: float, steps: int) -> int:
    """Return the number of updates below the peak rate at the end of a wsd run of `steps`."""
    return max(1, min(round(cooldown_fraction * steps), steps - 1))


@dataclass(frozen=True)
class TrainConfig(ConfigSection):
    """Length of a run, batch sizes, validation and checkpoints."""

    section = 'train'

    batch_size: int = field(32, 'Sequences per step, over all devices.', allowed=POSITIVE)
    microbatch_size: int = field(
        0,
        'Sequences that a device processes at a time, accumulating gradients; 0: its whole share.',
        allowed=NON_NEGATIVE,
    )
    steps: int = field(0, 'Training steps; 0: as many as tokens requires.', allowed=NON_NEGATIVE)
    tokens: int = field(
        2_000_000, 'Training tokens, used if steps is 0.', allowed=NON_NEGATIVE, largest=MAX_INT64
    )
    flops: float = field(
        0.0,
        'Training FLOPs (6 per token and parameter, without positions), used if steps and tokens '
        'are 0.',
        allowed=NON_NEGATIVE,
    )
    log_every: int = field(10, 'Steps between lines of metrics.jsonl.', allowed=POSITIVE)
    eval_every: int = field(
        0, 'Steps between validations; 0: only at the end.', allowed=NON_NEGATIVE
    )
    eval_tokens: int = field(
        0, 'Tokens of validation text used; 0: all.', allowed=NON_NEGATIVE, largest=MAX_INT64
    )
    eval_batch_size: int = field(
        0, 'Sequences per validation batch; 0: batch_size.', allowed=NON_NEGATIVE
    )
    checkpoint_every: int = field(
        500,
        'Steps between checkpoints; there is always one at the end and on SIGTERM.',
        allowed=NON_NEGATIVE,
    )
    keep_checkpoints: int = field(2, 'Number of newest checkpoints to retain.', allowed=POSITIVE)
    early_stopping_patience: int = field(
        0,
        'Validations without a better score before the run ends; 0 disables.',
        allowed=NON_NEGATIVE,
    )
    keep_best: bool = field(
        False,
        'Also retain the checkpoint with the best validation score; later commands load that one.',
    )
    keep_steps: tuple[int, ...] = field(
        (), 'Steps whose checkpoints are always retained, for branches to start from.', items=int
    )
    branch_from: str = field(
        '',
        "A run's folder, or another trial's name: start from its checkpoint at branch_step.",
        path=True,
    )
    branch_step: int = field(0, "Step of branch_from's checkpoint.")
    max_skipped_in_row: int = field(
        10, 'Non-finite steps in a row before the run stops.', allowed=POSITIVE
    )
    tensorboard: bool = field(True, 'Write TensorBoard files too.')
    trackers: tuple[str, ...] = field(
        (),
        'Services that also receive the metrics.',
        choices=('wandb', 'mlflow', 'trackio'),
        extensible=True,
        items=str,
    )
    stall_minutes: float = field(
        15.0,
        'With several processes: minutes without a step before all exit with code 75; 0: never.',
        allowed=NON_NEGATIVE,
    )

    def check(self) -> None:
        require(
            not self.early_stopping_patience or self.eval_every > 0,
            'train.early_stopping_patience',
            'must be 0 unless train.eval_every is positive, since it counts validations',
        )
        require(
            self.steps > 0 or self.tokens > 0 or self.flops > 0,
            'train.tokens',
            'must be positive if steps and flops are 0',
        )
        require(
            all(step > 0 for step in self.keep_steps),
            'train.keep_steps',
            f'must list positive integers, got {self.keep_steps}',
        )
        require(
            (self.branch_step > 0) == bool(self.branch_from),
            'train.branch_step',
            'must be positive exactly when train.branch_from is set',
        )

    @property
    def evaluation_batch_size(self) -> int:
        return self.eval_batch_size or self.batch_size

    @property
    def is_flop_budgeted(self) -> bool:
        """Whether the run's length follows from its FLOPs."""
        return not self.steps and not self.tokens

    def total_steps(self, context: int, flops_per_token: int) -> int:
        """Return `steps`, or the fewest that cover `tokens`, or the number nearest to `flops`."""
        per_step = self.batch_size * context
        if not self.is_flop_budgeted:
            return self.steps or -(-self.tokens // per_step)
        return max(1, round(self.flops / (flops_per_token * per_step)))

    def microbatches(self, devices: int) -> int:
        """Return the number of microbatches of one device's share of the batch.

        Args:
          devices: number of devices that share the batch.

        Raises:
          UserError: `microbatch_size` does not divide that share.
        """
        share = self.batch_size // devices
        size = min(self.microbatch_size or share, share)
        require(
            share % size == 0,
            'train.microbatch_size',
            f'must divide the {share} sequences of one device, got {size}',
        )
        return share // size


@dataclass(frozen=True)
class MeshConfig(ConfigSection):
    """Sizes of the mesh axes and the strategy that shards weights over them."""

    section = 'mesh'

    strategy: str = field(
        'replicated',
        'How weights are stored (parallel/rules.py); auto chooses both strategy and mesh.',
        choices=('replicated', 'zero1', 'fsdp', AUTO),
    )
    dcn: int = field(
        1,
        'Slices of the machine connected by a slower network (data-center network), each with a '
        'share of the batch; 0, for any axis: all remaining devices.',
        allowed=NON_NEGATIVE,
    )
    data: int = field(0, 'Devices that share the batch.', allowed=NON_NEGATIVE)
    fsdp: int = field(
        1,
        'Devices that share the batch and, with strategy fsdp or zero1, the weights.',
        allowed=NON_NEGATIVE,
    )
    expert: int = field(1, 'Devices that share the batch and the experts.', allowed=NON_NEGATIVE)
    pipeline: int = field(
        1,
        'Devices that share the batch and the layers, in pipeline stages fed by microbatches.',
        allowed=NON_NEGATIVE,
    )
    context: int = field(1, 'Devices that share the length of a sequence.', allowed=NON_NEGATIVE)
    tensor: int = field(
        1, 'Devices that share heads, feed-forward width and vocabulary.', allowed=NON_NEGATIVE
    )
    context_parallel: str = field(
        'ring',
        'How attention crosses the context axis: ring, or all_to_all (Ulysses).',
        choices=('ring', 'all_to_all'),
    )
    cpu_devices: int = field(
        0,
        'JAX devices on the CPU if there is no accelerator; 0: one per core.',
        allowed=NON_NEGATIVE,
        largest=4096,
    )

    def check(self) -> None:
        free = [axis for axis, size in self.sizes.items() if size == 0]
        require(
            len(free) <= 1, 'mesh', f'only one axis can be 0 (automatic), got {" and ".join(free)}'
        )

    @property
    def sizes(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in MESH_AXES}

    @property
    def axes(self) -> int:
        """How many axes may have more than one device; an automatic one counts."""
        if self.strategy == AUTO:
            return len(MESH_AXES)
        return max(1, sum(size != 1 for size in self.sizes.values()))


@dataclass(frozen=True)
class BenchmarkConfig(ConfigSection):
    """What `--mode=benchmark` times."""

    section = 'benchmark'

    steps: int = field(
        20, 'Timed training steps, after warmup; 0: training is not timed.', allowed=NON_NEGATIVE
    )
    warmup: int = field(3, 'Untimed steps before the timed ones.', allowed=POSITIVE)
    peak_flops: float = field(
        0.0,
        "The device's matrix FLOP/s in matmul_dtype; 0: looked up by the device's name, or "
        'measured.',
        allowed=NON_NEGATIVE,
    )
    prompt_tokens: int = field(32, 'Prompt tokens of timed generation.', allowed=POSITIVE)
    new_tokens: int = field(
        128, 'Generated tokens; 0: generation is not timed.', allowed=NON_NEGATIVE
    )
    batch_sizes: tuple[int, ...] = field(
        (1, 8), 'Numbers of texts to generate at once; each is timed.', items=int
    )
    weight_dtype: str = field(
        'float32', 'Dtype of matrices during generation.', choices=WEIGHT_DTYPES
    )

    def check(self) -> None:
        require(
            bool(self.batch_sizes) and all(size > 0 for size in self.batch_sizes),
            'benchmark.batch_sizes',
            f'must list positive integers, got {self.batch_sizes}',
        )
        require(
            self.steps > 0 or self.new_tokens > 0,
            'benchmark',
            'steps and new_tokens are both 0; set one',
        )


@dataclass(frozen=True)
class SweepConfig(ConfigSection):
    """The trials of a sweep, and its limits."""

    section = 'sweep'

    trials: tuple[dict[str, object], ...] = field(
        (),
        'One dict per trial: its name, and dotted config keys with their values '
        '(gpt_jax/scaling/plan/design.py makes them).',
    )
    trials_per_process: int = field(
        1,
        'Maximum number of trials, alike except in seed and learning rate, that one process trains '
        'at once (vmapped).',
        allowed=AT_LEAST_ONE,
    )
    hang_minutes: float = field(
        30.0, 'Minutes without progress before a trial is stopped; 0: never.', allowed=NON_NEGATIVE
    )
    hours: float = field(
        0.0, 'Total hours of all trials, over all calls; 0: no limit.', allowed=NON_NEGATIVE
    )
    flops: float = field(
        0.0, 'Total training FLOPs of all trials; 0: no limit.', allowed=NON_NEGATIVE
    )
    stale_minutes: float = field(
        2.0,
        'Minutes without a heartbeat from another process before its trial is taken over.',
        allowed=POSITIVE,
    )


SECTIONS: dict[str, type[ConfigSection]] = {
    'model': ModelConfig,
    'data': DataConfig,
    'task': TaskConfig,
    'suite': SuiteConfig,
    'finetune': FinetuneConfig,
    'optimizer': OptimizerConfig,
    'train': TrainConfig,
    'mesh': MeshConfig,
    'benchmark': BenchmarkConfig,
    'sweep': SweepConfig,
}
# Fields outside any section: (default, documentation).
TOP_LEVEL: dict[str, tuple[Any, str]] = {
    'name': ('gpt', 'Name of the run, whose default workdir is runs/NAME.'),
    'seed': (0, 'Determines initialization, batches and dropout.'),
    'init_from': (
        '',
        'Initial weights: the folder of a run or import; for a task also a Hugging Face folder or '
        'name, whose shape and tokenizer the model then takes.',
    ),
}


@dataclass(frozen=True)
class Config:
    """The checked config of a whole run."""

    name: str
    seed: int
    init_from: str
    model: ModelConfig
    data: DataConfig
    task: TaskConfig
    suite: SuiteConfig
    finetune: FinetuneConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    mesh: MeshConfig
    benchmark: BenchmarkConfig
    sweep: SweepConfig

    @property
    def steps(self) -> int:
        """The number of training steps."""
        flops_per_token = model_counts.flops_per_token(self.model)['6N']
        return self.train.total_steps(self.model.context, flops_per_token)

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch_size * self.model.context


def parse_config(config: Mapping[str, Any], vocab_size: int) -> Config:
    """Check a raw config field by field.

    Args:
      config: the raw config, which must have every field.
      vocab_size: the tokenizer's vocabulary size; 1 to check the rest before it is known.

    Raises:
      UserError: a field is missing, unknown or invalid; names it.
    """
    known = [*TOP_LEVEL, *SECTIONS]
    for key in config:
        if key not in known:
            raise UserError(f'config.{key}: no such section{nearest(key, known)}')
    for key in known:
        require(key in config, key, 'missing')
    seed = config['seed']
    require(
        isinstance(seed, int) and not isinstance(seed, bool) and SEED.contains(seed),
        'seed',
        f'{SEED}, got {seed!r}',
    )
    check_name(config['name'], 'name')
    require(isinstance(config['init_from'], str), 'init_from', 'must be the name of a folder')
    values = dict(config) | {'model': resolve_model(config['model'], vocab_size)}
    sections: dict[str, Any] = {
        key: from_dict(section, values[key], key) for key, section in SECTIONS.items()
    }
    init_from = expand_home(config['init_from'], 'config.init_from')
    return Config(name=config['name'], seed=seed, init_from=init_from, **sections)


def parse_section(config: Mapping[str, Any], name: str) -> Any:
    """Check one section of a raw config, for use before the vocabulary is known."""
    return from_dict(SECTIONS[name], config[name], name)


def base_config() -> Any:
    """Return the defaults as a ConfigDict, which a config file changes and returns."""
    from ml_collections import ConfigDict  # not needed to read a saved config

    return ConfigDict(_default_values())


def default_config() -> RawConfig:
    """Return the defaults as nested dicts of JSON's types."""
    return to_raw(_default_values())


def to_raw(value: Any) -> Any:
    """Return a config as nested dicts of JSON's types, tuples as lists, as saved with a run."""
    if hasattr(value, 'items'):
        return {key: to_raw(item) for key, item in value.items()}
    return [to_raw(item) for item in value] if isinstance(value, list | tuple) else value


def _default_values() -> RawConfig:
    values: RawConfig = {name: default for name, (default, _) in TOP_LEVEL.items()}
    for name, section in SECTIONS.items():
        declared = dataclasses.fields(section)  # type: ignore[arg-type]
        values[name] = {item.name: item.metadata['default'] for item in declared}
    return values


def describe_fields() -> Iterator[tuple[str, Any, str, tuple[str, ...]]]:
    """Yield (dotted name, default, documentation, choices) of every field, in page order."""
    for name, (default, doc) in TOP_LEVEL.items():
        yield name, default, doc, ()
    for name, section in SECTIONS.items():
        for item in dataclasses.fields(section):  # type: ignore[arg-type]
            about = item.metadata
            yield f'{name}.{item.name}', about['default'], about['doc'], about['choices']
