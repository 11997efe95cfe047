"""How do prompts of any length become arrays of few shapes? Requests, then batches whose sizes are rounded up.

Every size that is compiled in (rows, tokens of the prompts, room of the texts and of the cache) is rounded up to a
power of two, so that prompts of all lengths share a handful of compiled programs. Rows that only fill up are not
written, and tokens that only fill up are left out of attention.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.generate.decode import HALTED, RUNNING, Fixed, Sizes, Texts
from gpt_jax.generate.options import NEW_TOKENS, Options
from gpt_jax.generate.sampling import own_seed

LEAST = 16  # of tokens
FIRST, GROWTH = 4096, 4  # tokens that long texts have room for at first; how many times more where it is full
SCALE = 30  # length^length_penalty is within 10^-SCALE and 10^SCALE, which leaves float32 room for the rest of a score


class Prompt(NamedTuple):
    """text: as it was given. ids: its tokens, int32."""

    text: str
    ids: np.ndarray


@dataclass(frozen=True)
class Request:
    """A text to be written, or with beams the texts of one prompt.

    Attributes:
      prompt: what it goes on from.
      limit: tokens at which it is full, the prompt's included.
      minimum: tokens below which it does not end.
      seed: its own.
    """

    prompt: Prompt
    limit: int
    minimum: int
    seed: int


def requests(prompts: Sequence[Prompt], options: Options, context: int) -> list[Request]:
    """The texts to write, those of one prompt after each other; with beams one request per prompt.

    Raises:
      UserError: an empty prompt, or one that leaves no room for what is wanted.
    """
    made = []
    for number, prompt in enumerate(prompts):
        length = len(prompt.ids)
        which = f'prompt {number + 1}: ' if len(prompts) > 1 else ''
        limit = _limit(length, options, context, which)
        minimum = _minimum(length, limit, options, which)
        _check_scores(limit - length, options, which)
        for text in range(1 if options.num_beams > 1 else options.num_return_sequences):
            made.append(Request(prompt, limit, minimum, own_seed(options.seed, number, text)))
    return made


def _limit(length: int, options: Options, context: int, which: str) -> int:
    if not length:
        raise UserError(f'{which}the prompt is empty; give at least one token to go on from')
    slides = options.overflow == 'slide'
    if options.max_length and length >= options.max_length:
        raise UserError(
            f'{which}max_length: {options.max_length} tokens, and the prompt alone has {length}; '
            'raise it, or give max_new_tokens, which does not count the prompt'
        )
    if not slides and length >= context:
        raise UserError(
            f"{which}the prompt's {length} tokens fill the model's context of {context}; shorten it, or go on from its "
            'end with overflow=slide'
        )
    if not options.max_length and not options.max_new_tokens:
        return length + NEW_TOKENS if slides else min(length + NEW_TOKENS, context)
    limit = options.max_length or length + options.max_new_tokens
    if not slides and limit > context:
        raise UserError(
            f"{which}{length} tokens of the prompt and {limit - length} new ones are more than the model's context of "
            f'{context}; ask for at most {context - length}, or add overflow=slide'
        )
    return limit


def _minimum(length: int, limit: int, options: Options, which: str) -> int:
    new = options.min_new_tokens
    wanted = {'min_length': options.min_length, 'min_new_tokens': length + new if new else 0}
    name = max(wanted, key=lambda name: wanted[name])
    if wanted[name] > limit:
        raise UserError(
            f'{which}{name}: {getattr(options, name)}, and there is room for {limit - length} tokens after the '
            f"prompt's {length}; lower it, or raise max_new_tokens ({NEW_TOKENS} where nothing is said)"
        )
    return wanted[name]


def _check_scores(new: int, options: Options, which: str) -> None:
    most = SCALE / math.log10(max(2, new))
    if options.num_beams > 1 and abs(options.length_penalty) > most:
        raise UserError(
            f'{which}length_penalty: {options.length_penalty:g} makes scores of {new} tokens that float32 cannot hold; '
            f'with so many it may be {most:.1f} at most, and -{most:.1f} at least'
        )


def bucket(size: int, most: int) -> int:
    """`size` rounded up to a power of two, at least LEAST and at most `most`; 0 stays 0."""
    return min(max(LEAST, 1 << (size - 1).bit_length()), most) if size else 0


def batches(wanted: Sequence[Request], rows: int) -> Iterator[list[Request]]:
    """The requests in their order, `rows` at a time."""
    for start in range(0, len(wanted), rows):
        yield list(wanted[start : start + rows])


class Arrays(NamedTuple):
    """A batch as `begin` and `run` take it. read_BL, count_B: what is read first, all but each prompt's last token.

    limit_B: tokens at which each text is full. Where `texts` have less room, which is what `fixed` holds them to, they
    grow as they are written (`grown`).
    """

    read_BL: np.ndarray
    count_B: np.ndarray
    texts: Texts
    fixed: Fixed
    sizes: Sizes
    limit_B: np.ndarray


def arrays(
    batch: Sequence[Request], *, context: int, chunk: int, ways: int, ends_V: np.ndarray, least: int = 1
) -> Arrays:
    """The batch, its rows rounded up.

    Args:
      context: the model's.
      chunk: tokens that are read at once while writing.
      ways: devices that share the rows.
      least: rows that there are at least.
    """
    rows = -(-max(least, 1 << (len(batch) - 1).bit_length()) // ways) * ways
    parts = [_first(one.prompt.ids, context) for one in batch]
    longest = max(len(one.prompt.ids) for one in batch)
    room = bucket(min(max(one.limit for one in batch), max(FIRST, context, longest + 1)), 1 << 62)
    read_BL = np.zeros((rows, bucket(max(map(len, parts)), context)), np.int32)
    tokens_BL = np.zeros((rows, room), np.int32)
    for row, (part, one) in enumerate(zip(parts, batch, strict=True)):
        read_BL[row, : len(part)] = part
        tokens_BL[row, : len(one.prompt.ids)] = one.prompt.ids

    def each(values: Sequence[int], other: int, dtype: Any = np.int32) -> np.ndarray:
        return np.array([*values, *[other] * (rows - len(batch))], dtype)

    length_B = each([len(one.prompt.ids) for one in batch], 1)
    texts = Texts(
        tokens_BL=tokens_BL,
        log_p_BL=np.zeros(tokens_BL.shape, np.float32),
        length_B=length_B,
        reason_B=each([RUNNING] * len(batch), HALTED),
    )
    limit_B = each([one.limit for one in batch], 1)
    fixed = Fixed(
        prompt_B=length_B.copy(),
        limit_B=np.minimum(limit_B, room),
        minimum_B=each([one.minimum for one in batch], 0),
        seeds_B=each([one.seed for one in batch], 0, np.uint32),
        ends_V=ends_V,
    )
    return Arrays(
        read_BL, each([len(part) for part in parts], 0), texts, fixed, Sizes(min(room, context), chunk), limit_B
    )


def grown(texts: Texts, limit_B: np.ndarray) -> tuple[Texts, np.ndarray]:
    """(the texts on the host with more room, the limits that they then have)."""
    room = GROWTH * texts.tokens_BL.shape[1]
    more = ((0, 0), (0, room - texts.tokens_BL.shape[1]))
    wider = texts.replace(tokens_BL=np.pad(texts.tokens_BL, more), log_p_BL=np.pad(texts.log_p_BL, more))
    return wider, np.minimum(limit_B, room)


def _first(ids: np.ndarray, context: int) -> np.ndarray:
    """What is read before a prompt's last token: all of it, or what sliding leaves of a longer one."""
    before = ids[:-1]
    return before if len(before) < context else before[len(before) - context // 2 :]
