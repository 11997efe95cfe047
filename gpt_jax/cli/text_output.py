"""Output of generated texts: streamed to standard output, or as JSON records in a file."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_jax.core.errors import UserError

if TYPE_CHECKING:  # these modules import JAX
    from gpt_jax.inference.language_model import LanguageModel
    from gpt_jax.inference.options import GenerationOptions
    from gpt_jax.inference.text_stream import GeneratedText, TokenChunk


def print_texts(model: 'LanguageModel', prompts: list[str], options: 'GenerationOptions') -> None:
    """Print each text after its prompt, separated by empty lines, and nothing else.

    Raises:
      UserError: a prompt or option does not suit the model (raised before anything is printed), or
        standard output cannot be written.
    """
    from gpt_jax.inference.language_model import STREAM_STEPS

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')  # for terminals that lack a character
    headings = [prompt for prompt in prompts for _ in range(options.num_return_sequences)]
    try:
        for piece in interleave_pieces(
            model.stream_chunks(prompts, options, block=STREAM_STEPS), headings
        ):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except OSError as error:
        # At exit, Python would flush the rest of the buffer, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # a closed pipe ends the output silently
            raise UserError(f'standard output: {error.strerror or error}') from None


def interleave_pieces(chunks: Iterable['TokenChunk'], headings: list[str]) -> Iterator[str]:
    """Yield concurrently generated texts one after the other, each piece by piece."""
    turn, begun = 0, False
    waiting: dict[int, list[str]] = {}
    done: set[int] = set()
    for chunk in chunks:
        waiting.setdefault(chunk.number, []).append(chunk.text)
        if chunk.result is not None:
            done.add(chunk.number)
        while turn in waiting:
            if not begun:
                yield ('\n' if turn else '') + headings[turn]
            yield from waiting.pop(turn)
            begun = turn not in done
            if begun:
                break
            yield '\n'
            turn += 1


def record_texts(
    model: 'LanguageModel', prompts: list[str], options: 'GenerationOptions', path: Path
) -> bool:
    """Write one JSON object per text, in the order of the prompts, as soon as it is complete.

    Shows a progress bar on standard error if that is a terminal.

    Returns:
      Whether all texts were written; False if `path` is a pipe whose reader closed it.

    Raises:
      UserError: the file cannot be written, or a prompt or option does not suit the model.
    """
    import tqdm

    total = len(prompts) * options.num_return_sequences
    chunks = model.stream_chunks(prompts, options)
    first = next(chunks)  # raises for unsuitable input before the file is opened
    try:
        with (
            path.open('w', encoding='utf-8') as file,
            tqdm.tqdm(desc='writing', total=total, unit='text', disable=None) as bar,
        ):
            for text in order_texts(itertools.chain([first], chunks), bar.update):
                file.write(json.dumps(dataclasses.asdict(text), ensure_ascii=False) + '\n')
                file.flush()
    except BrokenPipeError:
        return False
    except OSError as error:
        raise UserError(f'--output={path}: {error.strerror or error}') from None
    return True


def order_texts(
    chunks: Iterable['TokenChunk'], on_done: Callable[[], object]
) -> Iterator['GeneratedText']:
    """Yield the texts in order, each once it and those before it are done."""
    waiting: dict[int, GeneratedText] = {}
    turn = 0
    for chunk in chunks:
        if chunk.result is None:
            continue
        waiting[chunk.number] = chunk.result
        on_done()
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1


def write_rows(rows: Iterable[dict[str, Any]], total: int, path: str | None) -> None:
    """Write one JSON object per row as soon as it is made, to a file or to standard output.

    Shows a progress bar on standard error if that is a terminal and the rows go to a file.

    Raises:
      UserError: the file cannot be written.
    """
    import tqdm

    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(path, 'w', encoding='utf-8')) if path else sys.stdout
            hidden = None if path else True
            for row in tqdm.tqdm(rows, 'answering', total, unit='dialogue', disable=hidden):
                file.write(json.dumps(row, ensure_ascii=False) + '\n')
                file.flush()
    except OSError as error:
        raise UserError(f'--output={path}: {error.strerror or error}') from None
