"""Chat with a model, in turns formatted by its chat template: in the terminal, or from a file.

For a model without a chat template, turns are "User: ..." and "Assistant: ..." lines.

examples:
  gpt-jax chat runs/dialogue --temperature=0.7
  gpt-jax chat runs/dialogue --prompts=dialogues.jsonl --output=answers.jsonl
"""

import argparse
from pathlib import Path
from typing import Any

from gpt_jax.cli.arguments import add_model_arguments, check_output, parse_path
from gpt_jax.cli.generate import (
    add_generation_arguments,
    log_draft_statistics,
    parse_generation_arguments,
)
from gpt_jax.core import command
from gpt_jax.core.errors import UserError
from gpt_jax.data import readers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        '--prompts',
        type=parse_path,
        metavar='FILE',
        help='answer the dialogues of a file instead: rows with a column "messages", a list of '
        '{"role": ..., "content": ...} that ends with a user turn',
    )
    parser.add_argument(
        '--output',
        type=parse_path,
        metavar='FILE',
        help='with --prompts: the rows with the answers, as JSON Lines (default: standard output)',
    )
    add_generation_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    from gpt_jax.inference.options import check_draft_options, make_options

    if arguments.output is not None and arguments.prompts is None:
        raise UserError('--output: needs --prompts')
    check_output(arguments.output)
    option_values = parse_generation_arguments(arguments)
    options = make_options(option_values)
    if arguments.draft is not None:
        check_draft_options(options)
    dialogues = read_dialogues(Path(arguments.prompts)) if arguments.prompts else []
    from gpt_jax.cli import terminal_session, text_output
    from gpt_jax.inference import chat_session, language_model

    model = language_model.load(
        arguments.model,
        draft=arguments.draft,
        weight_dtype=arguments.weight_dtype,
        log=command.log,
        **arguments.devices,
    )
    dialogue = chat_session.load_dialogue(arguments.model, model)
    if arguments.prompts:
        rows = (dialogue.complete_row(row, option_values) for row in dialogues)
        text_output.write_rows(rows, len(dialogues), arguments.output)
    else:
        terminal_session.run_session(model, option_values, command.log, dialogue)
    if arguments.draft is not None:
        log_draft_statistics(model)


def read_dialogues(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, each with a dialogue in the column "messages".

    Raises:
      UserError: the file cannot be read, or a row has no dialogue that ends with a user turn.
    """
    rows = []
    for location, row in readers.read_rows(path):
        turns = row.get('messages')
        is_valid = isinstance(turns, list) and all(
            isinstance(turn, dict)
            and isinstance(turn.get('role'), str)
            and isinstance(turn.get('content'), str)
            for turn in turns
        )
        if not is_valid or not turns or turns[-1]['role'] != 'user':
            raise UserError(
                f'{location}: messages: must be a list of {{"role": TEXT, "content": TEXT}} that '
                'ends with a user turn'
            )
        rows.append(row)
    if not rows:
        raise UserError(f'{path}: contains no dialogue')
    return rows
