"""Which texts are wanted, and how are their tokens chosen? Every option of generation, its default and its checks.

Names and meanings are those of transformers' `generate` where it has them, so that a call can be carried over.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, get_type_hints

from gpt_jax import schema
from gpt_jax.errors import UserError


class Option(NamedTuple):
    """default: also what switches the option off. help: one line."""

    default: Any
    help: str


# The one place of the defaults. Flags, /set, the Python API and their help are made from it.
OPTIONS: Mapping[str, Option] = {
    'max_length': Option(0, 'Tokens of a text, its prompt included. 0: as max_new_tokens says.'),
    'max_new_tokens': Option(0, 'Tokens after the prompt; both this and max_length 0: 100, or what the context has.'),
    'min_length': Option(0, 'No text ends before it has so many tokens, its prompt included.'),
    'min_new_tokens': Option(0, 'No text ends before it has so many tokens after its prompt.'),
    'num_return_sequences': Option(1, 'Texts per prompt.'),
    'do_sample': Option(False, 'Draw tokens at random, not the likeliest; on where an option of sampling is given.'),
    'temperature': Option(1.0, 'Scores are divided by it before drawing; 0: always the likeliest token.'),
    'top_k': Option(0, 'Draw from the k likeliest tokens; 0: from all.'),
    'top_p': Option(1.0, 'Draw from the fewest tokens whose probabilities sum to this.'),
    'min_p': Option(0.0, "Draw from the tokens at least so probable, as a share of the likeliest one's probability."),
    'typical_p': Option(1.0, 'Draw from the tokens of the most typical surprise whose probabilities sum to this.'),
    'repetition_penalty': Option(1.0, 'Above 1: scores of tokens that the text or its prompt has are moved down.'),
    'presence_penalty': Option(0.0, 'Taken from the scores of tokens that were written already.'),
    'frequency_penalty': Option(0.0, 'Taken from the scores of tokens, times how often they were written already.'),
    'no_repeat_ngram_size': Option(0, 'No n tokens in a row come twice; 0: off.'),
    'num_beams': Option(1, 'Above 1: beam search with so many beams.'),
    'length_penalty': Option(1.0, 'Beams are ranked by log-probability / length^this.'),
    'early_stopping': Option(False, 'When a beam search ends: false (by a guess), true (enough texts), never (sure).'),
    'stop': Option((), r'A text ends before this string; a flag may come several times, with \n, \t, \\ as escapes.'),
    'eos_token_id': Option((), "Ids that end a text; none: the tokenizer's end of a document."),
    'stop_token_ids': Option((), 'Further ids that end a text.'),
    'seed': Option(0, 'Decides what is drawn; every text of every prompt has its own stream.'),
    'overflow': Option('refuse', 'What to do at the end of the context: refuse, slide (go on from its last half).'),
    'draft_tokens': Option(4, 'Tokens that a draft proposes at a time.'),
    'batch_size': Option(16, 'Texts that are written at once.'),
}  # fmt: skip

ESCAPES = {'n': '\n', 'r': '\r', 't': '\t', '\\': '\\'}
WARPS = ('temperature', 'top_k', 'top_p', 'min_p', 'typical_p')  # what sampling alone makes use of
OVERFLOWS = ('refuse', 'slide')
MOST = 2**30  # of anything that is counted; twice as many are too many for int32
NEW_TOKENS = 100  # where nothing is said


@dataclass(frozen=True)
class Options:
    """Checked options; OPTIONS says what each means."""

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
    eos_token_id: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    seed: int
    overflow: str
    draft_tokens: int
    batch_size: int

    def changed(self, names: Any) -> tuple[str, ...]:
        """Those of `names` whose value does something."""
        return tuple(name for name in names if getattr(self, name) != OPTIONS[name].default)


def make(given: Mapping[str, Any]) -> Options:
    """Options from those that are given; the others have their defaults.

    Where `do_sample` is not given, tokens are drawn if an option of sampling is, and if temperature is not 0.

    Raises:
      UserError: an unknown name, a value out of its range, or two that contradict each other.
    """
    for name in given:
        if name not in OPTIONS:
            raise UserError(f'{name}: no such option{schema.nearest(name, OPTIONS)}')
    types = get_type_hints(Options)
    values = {
        field.name: _typed(field.name, given.get(field.name, OPTIONS[field.name].default), types[field.name])
        for field in fields(Options)
    }
    if 'do_sample' not in given:
        values['do_sample'] = any(name in given for name in WARPS)
    options = Options(**values)
    _check_ranges(options)
    if options.temperature == 0:  # by definition the likeliest token
        options = replace(options, do_sample=False, **{name: OPTIONS[name].default for name in WARPS})
    _check_together(options)
    return options


def parsed(name: str, text: str) -> Any:
    """The value that `text` means for an option, as a flag or /set has it; in `stop` ESCAPES stand after a backslash.

    Raises:
      UserError: no such option, or a text that is no such value.
    """
    if name not in OPTIONS:
        raise UserError(f'{name}: no such option{schema.nearest(name, OPTIONS)}')
    default = OPTIONS[name].default
    words = {'true': True, 'false': False}
    try:
        if isinstance(default, bool):
            return words[text.lower()] if name != 'early_stopping' or text != 'never' else text
        if isinstance(default, tuple):
            return (_unescaped(text),) if name == 'stop' else tuple(int(part) for part in text.split(',') if part)
        return type(default)(text)
    except (ValueError, KeyError):
        raise UserError(f'{name}: cannot be {text!r}; {OPTIONS[name].help}') from None


def _unescaped(text: str) -> str:
    return re.sub(r'\\([nrt\\])', lambda match: ESCAPES[match[1]], text)


def check_draft(options: Options) -> None:
    """Raises UserError for options that a draft has no part in."""
    if options.num_beams > 1:
        raise UserError('num_beams: beams take no draft; take one of the two away')
    if options.overflow == 'slide':
        raise UserError('overflow: a draft cannot slide; take it away, or write less')


def _typed(name: str, value: Any, wanted: Any) -> Any:
    if name == 'early_stopping':
        if not isinstance(value, bool) and not (isinstance(value, str) and value == 'never'):  # 1 == True
            raise UserError(f"early_stopping: {value!r}; one of False, True, 'never'")
        return value
    if isinstance(OPTIONS[name].default, tuple):
        inner = str if name == 'stop' else int
        items = (value,) if isinstance(value, inner) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, inner) for item in items):
            raise UserError(f'{name}: wants {inner.__name__} or several of them, got {value!r}')
        return tuple(items)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) <= MOST else math.inf * (-1 if value < 0 else 1)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise UserError(f'{name}: wants {wanted.__name__}, got {value!r}')
    return value


def _check_ranges(o: Options) -> None:
    def require(name: str, good: bool, wanted: str) -> None:
        if not good:
            raise UserError(f'{name}: must be {wanted}, got {getattr(o, name)!r}')

    for name in ('max_length', 'max_new_tokens', 'min_length', 'min_new_tokens', 'top_k', 'no_repeat_ngram_size'):
        require(name, getattr(o, name) >= 0, '0 or above')
        require(name, getattr(o, name) <= MOST, f'at most {MOST} (counts have 32 bits)')
    for name in ('num_return_sequences', 'num_beams', 'draft_tokens', 'batch_size'):
        require(name, 1 <= getattr(o, name) <= MOST, '1 or above' if getattr(o, name) < 1 else f'at most {MOST}')
    for name in ('top_p', 'typical_p'):
        require(name, 0 < getattr(o, name) <= 1, 'in (0, 1]')
    for name in ('presence_penalty', 'frequency_penalty', 'length_penalty'):
        require(name, abs(getattr(o, name)) < 1e6, 'a finite number')
    require('temperature', 0 <= o.temperature < 1e6, '0 (the likeliest token) or above')
    require('min_p', 0 <= o.min_p <= 1, 'in [0, 1]')
    require('repetition_penalty', 1e-6 <= o.repetition_penalty < 1e6, 'above 0, by 1e-6 at least')
    require('seed', 0 <= o.seed < 2**32, 'in [0, 2^32)')
    require('overflow', o.overflow in OVERFLOWS, f'one of {", ".join(OVERFLOWS)}')
    require('stop', all(o.stop), 'strings that are not empty')
    for name in ('eos_token_id', 'stop_token_ids'):
        require(name, all(id_ >= 0 for id_ in getattr(o, name)), 'ids, 0 or above')


def _check_together(o: Options) -> None:
    if o.max_length and o.max_new_tokens:
        raise UserError('max_length, max_new_tokens: give one of them; the first counts the prompt in')
    if o.num_beams > 1 and o.do_sample:
        raise UserError('num_beams: beams draw nothing at random; take the options of sampling away, or the beams')
    if o.num_beams > 1 and o.num_return_sequences > o.num_beams:
        raise UserError(f'num_return_sequences: {o.num_return_sequences} texts from {o.num_beams} beams; add beams')
    if o.num_beams > 1 and o.overflow == 'slide':
        raise UserError('overflow: beams cannot slide; take them away, or write less')
    if o.num_beams > 1 and o.stop:
        raise UserError('stop: beams end at ids alone (stop_token_ids); take the strings away, or the beams')
    if o.num_beams == 1 and not o.do_sample and o.num_return_sequences > 1:
        raise UserError(
            f'num_return_sequences: {o.num_return_sequences} texts of the likeliest tokens are all the same; '
            'add do_sample=True (and a temperature, say) or num_beams'
        )
    if o.num_beams == 1 and (idle := o.changed(('length_penalty', 'early_stopping'))):
        raise UserError(f'{idle[0]}: is for beam search; add num_beams')
    if not o.do_sample and o.num_beams == 1 and (idle := o.changed(WARPS)):
        raise UserError(f'{idle[0]}: is for sampling, which do_sample=False turns off')
    if 0 < o.max_length < o.min_length:
        raise UserError(f'min_length: {o.min_length} is above max_length, {o.max_length}')
    if 0 < o.max_new_tokens < o.min_new_tokens:
        raise UserError(f'min_new_tokens: {o.min_new_tokens} is above max_new_tokens, {o.max_new_tokens}')
