"""How do written texts come out? On standard output as they grow, or as records in a file."""

import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gpt_jax.errors import UserError
from gpt_jax.generate.options import Options
from gpt_jax.generate.writer import Text, Update
from gpt_jax.language_model import STREAMED, LanguageModel


def show(model: LanguageModel, prompts: list[str], chosen: Options) -> None:
    """Prints each text with its prompt, an empty line between two, and nothing else.

    Raises:
      UserError: before anything is printed, where a prompt or an option does not suit the model; or standard output
        takes no more, for the disk is full.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')  # a terminal that lacks a letter shows that it does
    headings = [prompt for prompt in prompts for _ in range(chosen.num_return_sequences)]
    try:
        for piece in in_turn(model.write(prompts, chosen, block=STREAMED), headings):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the buffer still holds
        if not isinstance(error, BrokenPipeError):  # with which nobody reads on, so nothing is left to do
            raise UserError(f'standard output: {error.strerror or error}') from None


def in_turn(updates: Iterable[Update], headings: list[str]) -> Iterator[str]:
    """One text after the other, of several that are written at once: the one whose turn it is as it grows."""
    turn, begun = 0, False
    waiting: dict[int, list[str]] = {}
    done: set[int] = set()
    for update in updates:
        waiting.setdefault(update.number, []).append(update.piece)
        if update.done is not None:
            done.add(update.number)
        while turn in waiting:
            if not begun:
                yield ('\n' if turn else '') + headings[turn]
            yield from waiting.pop(turn)
            begun = turn not in done
            if begun:
                break
            yield '\n'
            turn += 1


def record(model: LanguageModel, prompts: list[str], chosen: Options, path: Path) -> bool:
    """Writes a JSON object per text, in the order of the prompts, as soon as it and those before it are done.

    A bar on standard error shows how many are, where that is a terminal.

    Returns:
      Whether all are written; they are not where `path` is a pipe that nobody reads on.

    Raises:
      UserError: the file cannot be written, or a prompt or an option does not suit the model.
    """
    import tqdm

    total = len(prompts) * chosen.num_return_sequences
    updates = model.write(prompts, chosen)
    first = next(updates)  # raises for what does not suit, before a file is touched
    try:
        with (
            path.open('w', encoding='utf-8') as file,
            tqdm.tqdm(desc='writing', total=total, unit='text', disable=None) as bar,
        ):
            for text in in_order(_and(first, updates), bar.update):
                file.write(json.dumps(dataclasses.asdict(text), ensure_ascii=False) + '\n')
                file.flush()
    except BrokenPipeError:
        return False
    except OSError as error:
        raise UserError(f'--output={path}: {error.strerror or error}') from None
    return True


def in_order(updates: Iterable[Update], done: Callable[[], object]) -> Iterator[Text]:
    """The texts by their numbers, each as soon as it and those before it are done; calls `done` at each that is."""
    waiting: dict[int, Text] = {}
    turn = 0
    for update in updates:
        if update.done is None:
            continue
        waiting[update.number] = update.done
        done()
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1


def _and(first: Update, others: Iterator[Update]) -> Iterator[Update]:
    yield first
    yield from others
