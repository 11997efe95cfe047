"""Generation options: names, defaults, help texts and checks.

An option that transformers' `generate` also has keeps its name and meaning there, so that calls
carry over.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, get_type_hints

from gpt_jax.core import config_fields
from gpt_jax.core.errors import UserError


class Option(NamedTuple):
    """One generation option.

    Attributes:
      default: the value used if the option is not given.
      help: one line for the command line and for `/set`.
    """

    default: Any
    help: str


# The only declaration of the defaults: flags, /set and the Python API are derived from it.
OPTIONS: Mapping[str, Option] = {
    'max_length': Option(
        0, 'Maximum tokens of a text including its prompt; 0: use max_new_tokens.'
    ),
    'max_new_tokens': Option(
        0, 'Maximum new tokens; if this and max_length are 0: 100, or what fits into the context.'
    ),
    'min_length': Option(0, 'Minimum tokens of a text including its prompt.'),
    'min_new_tokens': Option(0, 'Minimum new tokens.'),
    'num_return_sequences': Option(1, 'Texts per prompt.'),
    'do_sample': Option(
        False, 'Sample instead of decoding greedily; on if any sampling option is given.'
    ),
    'temperature': Option(1.0, 'Divides the logits before sampling; 0: greedy.'),
    'top_k': Option(0, 'Sample from the k most likely tokens; 0: from all.'),
    'top_p': Option(1.0, 'Sample from the fewest tokens whose probabilities sum to this.'),
    'min_p': Option(
        0.0,
        "Sample from tokens with at least this fraction of the most likely token's probability.",
    ),
    'typical_p': Option(
        1.0, 'Sample from the most typical tokens whose probabilities sum to this.'
    ),
    'repetition_penalty': Option(
        1.0, 'Above 1: lowers the logits of tokens that occur in the prompt or the text.'
    ),
    'presence_penalty': Option(
        0.0, 'Subtracted from the logits of tokens that were already generated.'
    ),
    'frequency_penalty': Option(
        0.0, 'Subtracted from the logits of tokens for each time they were generated.'
    ),
    'no_repeat_ngram_size': Option(0, 'Let no n-gram of this length occur twice; 0: off.'),
    'num_beams': Option(1, 'Number of beams; 1: no beam search.'),
    'length_penalty': Option(1.0, 'Beams are ranked by log-probability / length^length_penalty.'),
    'early_stopping': Option(
        False,
        'When to end beam search: false (heuristic), true (once num_beams texts are finished), '
        'never (exact).',
    ),
    'stop': Option(
        (), r'String that ends a text (excluded from it); repeatable; \n, \r, \t, \\ are escapes.'
    ),
    'special_tokens_as_text': Option(
        False,
        'Read the name of a special token in a prompt, such as <|endoftext|>, as letters; by '
        'default it is that token, as in transformers.',
    ),
    'eos_token_id': Option((), "Token ids that end a text; default: the tokenizer's end of text."),
    'stop_token_ids': Option((), 'Additional token ids that end a text.'),
    'seed': Option(0, 'Random seed; every text of every prompt has its own stream.'),
    'context_overflow': Option(
        'error',
        'At the end of the context: error, or sliding_window (continue from its last half).',
    ),
    'draft_tokens': Option(4, 'Tokens that a draft model proposes at a time.'),
    'batch_size': Option(16, 'Texts generated at once.'),
}

ESCAPES = {'n': '\n', 'r': '\r', 't': '\t', '\\': '\\'}
SAMPLING_OPTIONS = ('temperature', 'top_k', 'top_p', 'min_p', 'typical_p')  # need do_sample
CONTEXT_OVERFLOWS = ('error', 'sliding_window')
MAX_COUNT = 2**30  # of tokens, texts or beams; twice as many overflow int32
DEFAULT_NEW_TOKENS = 100


@dataclass(frozen=True)
class GenerationOptions:
    """Checked generation options; OPTIONS documents each field."""

    max_length: int
    max_new_tokens: int
    min_length: int
    min_new_tokens: int
    num_return_sequences: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    num_beams: int
    length_penalty: float
    early_stopping: bool | str
    stop: tuple[str, ...]
    special_tokens_as_text: bool
    eos_token_id: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    seed: int
    context_overflow: str
    draft_tokens: int
    batch_size: int

    def select_active(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the given option names whose value differs from the default."""
        return tuple(name for name in names if getattr(self, name) != OPTIONS[name].default)


def make_options(option_values: Mapping[str, Any]) -> GenerationOptions:
    """Check the given options and fill in the defaults of the others.

    Without `do_sample`, sampling is on if any of SAMPLING_OPTIONS is given. A temperature of 0
    turns it off.

    Args:
      option_values: values by option name.

    Raises:
      UserError: an unknown name, a value out of range, or two options that contradict each other.
    """
    for name in option_values:
        _check_name(name)
    types = get_type_hints(GenerationOptions)
    values = {
        field.name: _check_type(
            field.name,
            option_values.get(field.name, OPTIONS[field.name].default),
            types[field.name],
        )
        for field in fields(GenerationOptions)
    }
    if 'do_sample' not in option_values:
        values['do_sample'] = any(name in option_values for name in SAMPLING_OPTIONS)
    options = GenerationOptions(**values)
    _check_ranges(options)
    if options.temperature == 0:  # greedy decoding by definition
        defaults = {name: OPTIONS[name].default for name in SAMPLING_OPTIONS}
        options = replace(options, do_sample=False, **defaults)
    _check_lengths(options)
    _check_combinations(options)
    return options


def parse_option(name: str, text: str) -> Any:
    """Parse the value of an option from the text of a flag or of `/set`.

    The strings of `stop` may contain ESCAPES after a backslash.

    Raises:
      UserError: the option is unknown, or the text is not a valid value for it.
    """
    _check_name(name)
    default = OPTIONS[name].default
    booleans = {'true': True, 'false': False}
    try:
        if name == 'early_stopping' and text == 'never':
            return text
        if isinstance(default, bool):
            return booleans[text.lower()]
        if name == 'stop':
            return (re.sub(r'\\([nrt\\])', lambda match: ESCAPES[match[1]], text),)
        if isinstance(default, tuple):
            return tuple(int(part) for part in text.split(',') if part)
        return type(default)(text)
    except (ValueError, KeyError):
        raise UserError(
            f'{name}: must be a valid value, got {text!r}; {OPTIONS[name].help}'
        ) from None


def check_draft_options(options: GenerationOptions) -> None:
    """Raise UserError for options that cannot be combined with a draft model."""
    if options.num_beams > 1:
        raise UserError(
            'num_beams: beam search cannot be combined with a draft model; remove one of them'
        )
    if options.context_overflow == 'sliding_window':
        raise UserError(
            'context_overflow: sliding_window cannot be combined with a draft model; '
            'remove it, or generate fewer tokens'
        )


def _check_name(name: str) -> None:
    if name not in OPTIONS:
        raise UserError(f'{name}: no such option{config_fields.nearest(name, OPTIONS)}')


def _check_type(name: str, value: Any, expected: Any) -> Any:
    """Return the value as the expected type."""
    if name == 'early_stopping':
        # Not `value in (...)`: 1 == True.
        if not isinstance(value, bool) and not (isinstance(value, str) and value == 'never'):
            raise UserError(f"early_stopping: must be one of False, True, 'never', got {value!r}")
        return value
    if isinstance(OPTIONS[name].default, tuple):
        item_type = str if name == 'stop' else int
        items = (value,) if isinstance(value, item_type) else value
        if not isinstance(items, list | tuple) or not all(
            isinstance(item, item_type) for item in items
        ):
            raise UserError(
                f'{name}: must be {item_type.__name__} or a list of {item_type.__name__}, '
                f'got {value!r}'
            )
        return tuple(items)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) <= MAX_COUNT else math.inf * (-1 if value < 0 else 1)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise UserError(f'{name}: must be {expected.__name__}, got {value!r}')
    return value


def _check_ranges(o: GenerationOptions) -> None:
    def require(name: str, holds: bool, requirement: str) -> None:
        if not holds:
            raise UserError(f'{name}: must be {requirement}, got {getattr(o, name)!r}')

    at_most = f'at most {MAX_COUNT} (counts have 32 bits)'
    for name in (
        'max_length',
        'max_new_tokens',
        'min_length',
        'min_new_tokens',
        'top_k',
        'no_repeat_ngram_size',
    ):
        require(name, getattr(o, name) >= 0, 'at least 0')
        require(name, getattr(o, name) <= MAX_COUNT, at_most)
    for name in ('num_return_sequences', 'num_beams', 'draft_tokens', 'batch_size'):
        require(name, getattr(o, name) >= 1, 'at least 1')
        require(name, getattr(o, name) <= MAX_COUNT, at_most)
    for name in ('top_p', 'typical_p'):
        require(name, 0 < getattr(o, name) <= 1, 'in (0, 1]')
    for name in ('presence_penalty', 'frequency_penalty', 'length_penalty'):
        require(name, abs(getattr(o, name)) < 1e6, 'between -1e6 and 1e6')
    require('temperature', 0 <= o.temperature < 1e6, '0 (greedy) or above')
    require('min_p', 0 <= o.min_p <= 1, 'in [0, 1]')
    require('repetition_penalty', 1e-6 <= o.repetition_penalty < 1e6, 'in [1e-6, 1e6)')
    require('seed', 0 <= o.seed < 2**32, 'in [0, 2^32)')
    require(
        'context_overflow',
        o.context_overflow in CONTEXT_OVERFLOWS,
        f'one of {", ".join(CONTEXT_OVERFLOWS)}',
    )
    require('stop', all(o.stop), 'non-empty strings')
    for name in ('eos_token_id', 'stop_token_ids'):
        require(name, all(id_ >= 0 for id_ in getattr(o, name)), 'token ids of at least 0')


def _check_lengths(o: GenerationOptions) -> None:
    if o.max_length and o.max_new_tokens:
        raise UserError(
            'max_length, max_new_tokens: give only one of them; max_length includes the prompt'
        )
    if 0 < o.max_length < o.min_length:
        raise UserError(
            f'min_length: must be at most max_length, {o.max_length}, got {o.min_length}'
        )
    if 0 < o.max_new_tokens < o.min_new_tokens:
        raise UserError(
            f'min_new_tokens: must be at most max_new_tokens, {o.max_new_tokens}, '
            f'got {o.min_new_tokens}'
        )


def _check_combinations(o: GenerationOptions) -> None:
    if o.num_beams > 1:
        _check_beam_search(o)
        return
    if not o.do_sample and o.num_return_sequences > 1:
        raise UserError(
            'num_return_sequences: must be 1 for greedy decoding, which always gives the same '
            f'text, got {o.num_return_sequences}; add do_sample=True or num_beams'
        )
    if unused := o.select_active(('length_penalty', 'early_stopping')):
        raise UserError(f'{unused[0]}: only affects beam search; add num_beams')
    if not o.do_sample and (unused := o.select_active(SAMPLING_OPTIONS)):
        raise UserError(f'{unused[0]}: only affects sampling, which do_sample=False turns off')


def _check_beam_search(o: GenerationOptions) -> None:
    if o.do_sample:
        raise UserError(
            'num_beams: beam search does not sample; remove the sampling options or num_beams'
        )
    if o.num_return_sequences > o.num_beams:
        raise UserError(
            f'num_return_sequences: must be at most num_beams, {o.num_beams}, '
            f'got {o.num_return_sequences}; raise num_beams'
        )
    if o.context_overflow == 'sliding_window':
        raise UserError(
            'context_overflow: sliding_window cannot be combined with beam search; '
            'remove one of them, or generate fewer tokens'
        )
    if o.stop:
        raise UserError(
            'stop: beam search ends at token ids only (stop_token_ids); remove stop or num_beams'
        )
