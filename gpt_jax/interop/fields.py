"""How is somebody else's config.json read so that nothing in it is passed over? Every field is taken, or refused."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_jax import schema
from gpt_jax.errors import UserError

LARGEST = 2**31 - 1  # of any size; JAX counts dims in 32 bits
REQUIRED = object()

# What says nothing of the function that the weights compute: provenance, training, generation, other heads, PyTorch.
HARMLESS = frozenset({
    '_name_or_path', 'transformers_version', 'torch_dtype', 'dtype', 'use_cache', 'return_dict', 'torchscript',
    'output_attentions', 'output_hidden_states', 'use_bfloat16', 'tf_legacy_loss', 'gradient_checkpointing',
    'initializer_range', 'attention_dropout', 'attn_pdrop', 'embd_pdrop', 'resid_pdrop', 'task_specific_params',
    'id2label', 'label2id', 'num_labels', 'problem_type', 'finetuning_task', 'classifier_dropout',
    'summary_activation', 'summary_first_dropout', 'summary_proj_to_labels', 'summary_type', 'summary_use_proj',
    'bos_token_id', 'eos_token_id', 'pad_token_id', 'sep_token_id', 'unk_token_id', 'decoder_start_token_id',
    'forced_bos_token_id', 'forced_eos_token_id', 'begin_suppress_tokens', 'suppress_tokens', 'bad_words_ids',
    'prefix', 'tokenizer_class', 'model_max_length', 'max_length', 'min_length', 'do_sample', 'early_stopping',
    'num_beams', 'num_beam_groups', 'diversity_penalty', 'temperature', 'top_k', 'top_p', 'typical_p',
    'repetition_penalty', 'length_penalty', 'no_repeat_ngram_size', 'encoder_no_repeat_ngram_size',
    'num_return_sequences', 'output_scores', 'return_dict_in_generate', 'remove_invalid_values',
    'exponential_decay_length_penalty', 'router_aux_loss_coef', 'output_router_logits', 'router_jitter_noise',
    'pretraining_tp', 'predict_special_tokens', 'n_ctx', 'output_past',
})  # fmt: skip

# What may stand in any config.json, but only so.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    'is_encoder_decoder': (False,), 'is_decoder': (False, True), 'add_cross_attention': (False,),
    'tie_encoder_decoder': (False,), 'cross_attention_hidden_size': (None,), 'pruned_heads': (None, {}),
    'chunk_size_feed_forward': (0,), 'quantization_config': (None,), 'per_layer_config': (None,),
    'tie_last_hidden_states': (None,), 'auto_map': (None,),
}  # fmt: skip


class Fields:
    """A config.json that is being read: each method takes one field, and `finish` refuses what nobody took."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self._values = path, dict(values)
        self.taken: set[str] = set()

    def refuse(self, key: str, why: str) -> UserError:
        return UserError(f'{self.path}: {key}: {why}')

    def raw(self, key: str, default: Any = None) -> Any:
        """The value as it stands; `default` where it is absent."""
        self.taken.add(key)
        if key not in self._values and default is REQUIRED:
            raise self.refuse(key, 'missing')
        return self._values.get(key, default)

    def size(self, key: str, default: Any = REQUIRED, least: int = 1) -> int:
        """A whole number from `least` up; null counts as absent where there is a default."""
        value = self.raw(key, default)
        value = default if value is None and default is not REQUIRED else value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
            raise self.refuse(key, f'wants a whole number from {least} to {LARGEST}, got {value!r}')
        return value

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """A finite number above 0."""
        return positive(self.raw(key, default), lambda why: self.refuse(key, why))

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, f'wants true or false, got {value!r}')
        return value

    def word(self, key: str, words: Mapping[str, str], default: Any = REQUIRED) -> str:
        """Our word for theirs."""
        value = self.raw(key, default)
        if not isinstance(value, str) or value not in words:
            raise self.refuse(key, f'{value!r} is not supported; supported are {", ".join(words)}')
        return words[value]

    def only(self, key: str, *allowed: Any) -> None:
        """The field may be absent or one of `allowed`; this model has nothing for any other value."""
        value = self.raw(key, allowed[0])
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            raise self.refuse(key, f'{value!r} is not supported; only {" or ".join(map(repr, allowed))} is')

    def finish(self) -> None:
        """Raises UserError for the first field that was neither taken nor is known to be harmless."""
        for key, allowed in NEUTRAL.items():
            self.only(key, *allowed)
        for key in sorted(self._values.keys() - self.taken - HARMLESS):
            known = sorted(self.taken | HARMLESS)
            raise self.refuse(key, f'no such field is known for this kind of model{schema.nearest(key, known)}')


def positive(value: Any, refuse: Any) -> float:
    """`value` as a float; raises `refuse(why)` unless it is a finite number above 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise refuse(f'wants a number above 0, got {value!r}')
    return float(value)
