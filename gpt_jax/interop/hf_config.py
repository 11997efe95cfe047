"""Mapping between Hugging Face's config.json and the model section of a config.

Every field that transformers' class of the model type has is read, is in IGNORED_FIELDS or is
rejected (transformers 5.24; a test compares the fields). A field that the class does not have
cannot change what it computes: `ConfigReader` collects these in `unknown`, for a line to the user.
`ConfigFormat.fixed` lists the fields that a layout fixes: on import, the model section gets these
values; on export, the model must have them.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.parametrization import forward_multipliers

MAX_SIZE = 2**31 - 1  # JAX counts dims in 32 bits
REQUIRED = object()  # in place of a default

ConfigValues = dict[str, Any]

# Fields that do not affect the function that the weights compute: provenance, training, generation,
# other heads, PyTorch.
IGNORED_FIELDS = frozenset(
    """
    _name_or_path transformers_version torch_dtype dtype use_cache return_dict torchscript
    output_attentions output_hidden_states use_bfloat16 tf_legacy_loss gradient_checkpointing
    initializer_range attention_dropout attn_pdrop embd_pdrop resid_pdrop hidden_dropout
    task_specific_params id2label label2id num_labels problem_type finetuning_task
    classifier_dropout summary_activation summary_first_dropout summary_proj_to_labels
    summary_type summary_use_proj bos_token_id eos_token_id pad_token_id sep_token_id
    unk_token_id decoder_start_token_id
    forced_bos_token_id forced_eos_token_id begin_suppress_tokens suppress_tokens bad_words_ids
    prefix tokenizer_class model_max_length max_length min_length do_sample early_stopping
    num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    num_return_sequences output_scores return_dict_in_generate remove_invalid_values
    exponential_decay_length_penalty router_aux_loss_coef output_router_logits
    router_jitter_noise pretraining_tp predict_special_tokens n_ctx output_past auto_map
    """.split()  # noqa: SIM905 - a literal would take one line per field
)

# Fields of any config.json that are only accepted with these values.
FIXED_FIELDS: Mapping[str, tuple[Any, ...]] = {
    'is_encoder_decoder': (False,),
    'is_decoder': (False, True),
    'add_cross_attention': (False,),
    'tie_encoder_decoder': (False,),
    'cross_attention_hidden_size': (None,),
    'pruned_heads': (None, {}),
    'chunk_size_feed_forward': (0,),
    'quantization_config': (None,),
    'per_layer_config': (None,),
    'tie_last_hidden_states': (None,),
    'transformers_weights': (None,),  # the name of another file of weights
}
# Fields that transformers' KV cache reads of any model, with the values that change nothing.
CACHE_FIELDS = ('sliding_window', 'attention_chunk_size', 'layer_types')


class ConfigReader:
    """Reads a config.json field by field.

    Attributes:
      path: the file, for error messages.
      read_keys: the fields that were read.
      unknown: names of fields that change nothing; complete after `collect_unknown`.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self._values = path, dict(values)
        self.read_keys: set[str] = set()
        self.unknown: list[str] = []

    def make_error(self, key: str, message: str) -> UserError:
        """Return the error for a field."""
        return UserError(f'{self.path}: {key}: {message}')

    def get(self, key: str, default: Any = None) -> Any:
        """Return the unchecked value; `default` if it is absent."""
        self.read_keys.add(key)
        if key not in self._values and default is REQUIRED:
            raise self.make_error(key, 'missing')
        return self._values.get(key, default)

    def get_int(self, key: str, default: Any = REQUIRED, minimum: int = 1) -> int:
        """Return an integer of at least `minimum`; if there is a default, null means absent."""
        value = self.get(key, default)
        value = default if value is None and default is not REQUIRED else value
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or not minimum <= value <= MAX_SIZE:
            raise self.make_error(
                key, f'must be an integer in [{minimum}, {MAX_SIZE}], got {value!r}'
            )
        return int(value)

    def get_positive(self, key: str, default: Any = REQUIRED) -> float:
        """Return a finite number above 0."""
        return check_positive(self.get(key, default), lambda why: self.make_error(key, why))

    def get_bool(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.make_error(key, f'must be true or false, got {value!r}')
        return value

    def get_choice(self, key: str, choices: Mapping[str, str], default: Any = REQUIRED) -> str:
        """Return our name for the field's value.

        Args:
          choices: our names by Hugging Face's.
        """
        value = self.get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.make_error(
                key, f'{value!r} is not supported; supported are {", ".join(choices)}'
            )
        return choices[value]

    def require(self, key: str, *allowed: Any) -> None:
        """Check that a field is absent or has one of the supported values."""
        value = self.get(key, allowed[0])
        # 1 == True, so the types are compared too.
        if not any(
            value == other and isinstance(value, bool) == isinstance(other, bool)
            for other in allowed
        ):
            supported = ' or '.join(map(repr, allowed))
            raise self.make_error(key, f'{value!r} is not supported; only {supported} is')

    def require_alias(self, alias: str, key: str) -> None:
        """Check that another name of a field that was read is absent or has the same value."""
        value = self._values.get(key)
        if self.get(alias, value) != value:
            raise self.make_error(alias, f'{self._values[alias]!r} contradicts {key} {value!r}')

    def collect_unknown(self) -> None:
        """Add the fields that were not read to `unknown`.

        Raises:
          UserError: a field that any class has or that any cache reads has an unsupported value.
        """
        for key, allowed in FIXED_FIELDS.items():
            self.require(key, *allowed)
        for key in CACHE_FIELDS:
            if key not in self.read_keys:
                kinds = self._values.get(key)
                is_full = isinstance(kinds, list) and all(
                    kind == 'full_attention' for kind in kinds
                )
                self.require(key, None, *([kinds] if is_full else []))
        self.unknown += sorted(self._values.keys() - self.read_keys - IGNORED_FIELDS)


def read_sizes(reader: ConfigReader) -> ConfigValues:
    """Read the sizes of a model whose heads divide its width, each with its own keys."""
    width, heads = reader.get_int('hidden_size'), reader.get_int('num_attention_heads')
    if width % heads:
        raise reader.make_error(
            'num_attention_heads', f'must divide the width {width}, got {heads}'
        )
    return {
        'layers': reader.get_int('num_hidden_layers'),
        'width': width,
        'heads': heads,
        'kv_heads': heads,
        'head_dim': width // heads,
        'vocab_size': reader.get_int('vocab_size'),
    }


def check_positive(value: Any, make_error: Callable[[str], UserError]) -> float:
    """Return `value` as a float if it is a finite number above 0; else raise `make_error(why)`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise make_error(f'must be a number above 0, got {value!r}')
    return float(value)


# Our names by Hugging Face's, the preferred one first.
ACTIVATIONS = {
    'silu': 'silu',
    'swish': 'silu',
    'gelu_new': 'gelu',
    'gelu_pytorch_tanh': 'gelu',
    'gelu_fast': 'gelu',
    'gelu': 'gelu_exact',
    'gelu_python': 'gelu_exact',
    'relu': 'relu',
    'relu2': 'squared_relu',
    'sigmoid': 'sigmoid',
    'linear': 'identity',
}

LAYER_TYPES = {'full_attention': 'full', 'sliding_attention': 'window'}  # ours by theirs

# Fields of the model section that a layout may set, with their values for layouts that do not. The
# other fields determine how the model is computed or trained.
MODEL_DEFAULTS: Mapping[str, Any] = {
    'vocab_multiple': 1,
    'block': 'pre_norm',
    'final_norm': True,
    'scale_embedding': False,
    'rotary_base': 10_000.0,
    'rotary_fraction': 1.0,
    'rotary_scaling': 'none',
    'rotary_factor': 1.0,
    'rotary_original_context': 0,
    'rotary_rotations': [],
    'rotary_magnitude': 0.0,
    'attention': 'multi_head',
    'attention_pattern': ['full'],
    'window': 0,
    'window_rotary_base': 0.0,
    'attention_scale_dim': 0,
    'attention_layer_scaling': False,
    'attention_softcap': 0.0,
    'attention_sink': False,
    'qk_norm': False,
    'qk_norm_per_head': True,
    'experts': 0,
    'experts_per_token': 2,
    'shared_experts': 0,
    'capacity_factor': 0.0,
    'normalize_experts': True,
    'qkv_bias': False,
    'logit_softcap': 0.0,
    'parametrization': 'standard',
    'base_width': 0,
    'base_layers': 0,
    'base_head_dim': 0,
}
# Features that most layouts cannot express.
UNSUPPORTED_FEATURES: Mapping[str, tuple[Any, ...]] = {
    'scale_embedding': (False,),
    'attention_layer_scaling': (False,),
    'qk_norm_per_head': (True,),
    'attention_softcap': (0.0,),
    'logit_softcap': (0.0,),
    'attention_sink': (False,),
}
# Conditions on a model, by field, unless the layout has its own for the field.
COMMON_CHECKS: Mapping[str, Callable[[ModelConfig], bool]] = {
    'attention_scale_dim': lambda config: config.attention_scale_dim == config.head_dim,
    'window_rotary_base': lambda config: (
        not config.window
        or config.window_rotary_base == 0
        or (config.window_rotary_base, 'none') == (config.rotary_base, config.rotary_scaling)
    ),
}
# Sets of the attention kinds of a model's layers.
FULL_ATTENTION, WINDOW_ATTENTION = frozenset({'full'}), frozenset({'window'})
MIXED_ATTENTION = FULL_ATTENTION | WINDOW_ATTENTION


class ConfigFormat(NamedTuple):
    """The config.json of one kind of model.

    Attributes:
      fixed: our fields that it fixes or restricts, with their possible values, the usual one first.
      checks: further conditions on a model, by field of ours, besides COMMON_CHECKS.
      attention: the possible sets of attention kinds of the layers.
      read: reads the fields; returns the model section except MODEL_DEFAULTS and `fixed`.
      write: returns the config.json of a model that fits, except the fields common to all kinds.
    """

    fixed: Mapping[str, tuple[Any, ...]]
    checks: Mapping[str, Callable[[ModelConfig], bool]]
    attention: tuple[frozenset[str], ...]
    read: Callable[[ConfigReader], ConfigValues]
    write: Callable[[ModelConfig], ConfigValues]

    def read_model_section(self, reader: ConfigReader) -> ConfigValues:
        """Read the model section of a config, except for how the model is computed and trained.

        Raises:
          UserError: a field is missing, or has a value that the model cannot compute.
        """
        fixed = {field: allowed[0] for field, allowed in self.fixed.items()}
        section = {**MODEL_DEFAULTS, **fixed, **self.read(reader)}
        reader.collect_unknown()
        return section


def list_mismatches(config_format: ConfigFormat, model_config: ModelConfig) -> list[str]:
    """List why a model cannot be expressed in a format: 'field: value' of each offending field."""
    fields = [
        field
        for field, allowed in config_format.fixed.items()
        if getattr(model_config, field) not in allowed
    ]
    checks = {**COMMON_CHECKS, **config_format.checks}
    fields += [field for field, holds in checks.items() if not holds(model_config)]
    if frozenset(model_config.layer_kinds) not in config_format.attention:
        fields.append('attention_pattern')
    # Multipliers of a parametrization have no name in config.json.
    if set(forward_multipliers(model_config)) != {1.0}:
        fields.append('parametrization')
    return [f'{field}: {getattr(model_config, field)!r}' for field in fields]


def hf_name(names: Mapping[str, str], ours: str) -> str:
    """Return Hugging Face's preferred name for ours.

    Raises:
      StopIteration: there is none.
    """
    return next(theirs for theirs, word in names.items() if word == ours)
