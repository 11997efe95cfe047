"""Chat with a model in the terminal, in turns formatted by its chat template.

For a model without a chat template, turns are "User: ..." and "Assistant: ..." lines.

example:
  gpt-jax chat runs/dialogue --temperature=0.7
"""

import argparse

from gpt_jax.cli.arguments import add_model_arguments
from gpt_jax.cli.generate import (
    add_generation_arguments,
    log_draft_statistics,
    parse_generation_arguments,
)
from gpt_jax.core import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_generation_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    from gpt_jax.inference.options import check_draft_options, make_options

    option_values = parse_generation_arguments(arguments)
    options = make_options(option_values)
    if arguments.draft is not None:
        check_draft_options(options)
    from gpt_jax.cli import terminal_session
    from gpt_jax.inference import chat_session, language_model

    model = language_model.load(
        arguments.model,
        draft=arguments.draft,
        weight_dtype=arguments.weight_dtype,
        log=command.log,
        **arguments.devices,
    )
    turns = chat_session.load_dialogue(arguments.model, model)
    terminal_session.run_session(model, option_values, command.log, turns)
    if arguments.draft is not None:
        log_draft_statistics(model)
