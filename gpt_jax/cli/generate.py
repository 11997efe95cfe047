"""Write text with a model.

Options have the names and meanings of transformers' `generate`. Decoding is greedy by default; any
sampling option enables sampling.

examples:
  gpt-jax generate runs/gpt_tiny --prompt="The weather today is" --max_length=50
  gpt-jax generate gpt2 --prompts=prompts.txt --output=texts.jsonl --num_beams=4
  gpt-jax generate runs/gpt_tiny --interactive --temperature=0.8 --top_p=0.95
  gpt-jax generate runs/large --draft=runs/small --prompt="Once"
"""

import argparse
from pathlib import Path
from typing import Any

from gpt_jax.cli.arguments import add_model_arguments, check_output, parse_path
from gpt_jax.core import command
from gpt_jax.core.errors import UserError
from gpt_jax.data import readers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--prompt', action='append', help='text to continue; may be repeated for several texts'
    )
    source.add_argument(
        '--prompts',
        type=parse_path,
        metavar='FILE',
        help='text with one prompt per line, or rows (.jsonl, .csv, ...) with the column "prompt"',
    )
    source.add_argument('--interactive', action='store_true', help='read prompts from the terminal')
    parser.add_argument(
        '--output',
        type=parse_path,
        metavar='FILE',
        help='write JSON Lines, one record per text, instead of text',
    )
    add_generation_arguments(parser)


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --draft and one argument per generation option; their default None means not given."""
    parser.add_argument(
        '--draft',
        type=parse_path,
        metavar='MODEL',
        help="speculative decoding: a smaller model with the same tokenizer, or 'lookup' to "
        'propose tokens from the text so far',
    )
    from gpt_jax.inference.options import OPTIONS

    group = parser.add_argument_group('generation options')
    for name, (default, text) in OPTIONS.items():
        text = text.replace('%', '%%')
        if isinstance(default, bool) and name != 'early_stopping':
            group.add_argument(f'--{name}', action=argparse.BooleanOptionalAction, help=text)
        elif name == 'stop':
            group.add_argument(f'--{name}', action='append', help=text)
        else:
            help_text = f'{text} (default: {default})' if default != () else text
            group.add_argument(f'--{name}', metavar='VALUE', help=help_text)


def parse_generation_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the generation options that were given, by name.

    Raises:
      UserError: a value cannot be parsed.
    """
    from gpt_jax.inference.options import OPTIONS, parse_option

    options: dict[str, Any] = {}
    for name in OPTIONS:
        value = getattr(arguments, name)
        if isinstance(value, list):  # a repeated argument
            options[name] = [item for text in value for item in parse_option(name, text)]
        elif value is not None:
            options[name] = parse_option(name, value) if isinstance(value, str) else value
    return options


def run(arguments: argparse.Namespace) -> None:
    from gpt_jax.inference.options import check_draft_options, make_options

    if arguments.output is not None and arguments.interactive:
        raise UserError('--output: not with --interactive; give --prompt or --prompts')
    check_output(arguments.output)
    option_values = parse_generation_arguments(arguments)
    options = make_options(option_values)
    if arguments.draft is not None:
        check_draft_options(options)
    prompts = arguments.prompt or (
        read_prompts(Path(arguments.prompts)) if arguments.prompts else []
    )
    from gpt_jax.cli import terminal_session, text_output
    from gpt_jax.inference import language_model

    model = language_model.load(
        arguments.model,
        draft=arguments.draft,
        weight_dtype=arguments.weight_dtype,
        log=command.log,
        **arguments.devices,
    )
    if arguments.interactive:
        terminal_session.run_session(model, option_values, command.log)
    elif arguments.output is None:
        text_output.print_texts(model, prompts, options)
    elif text_output.record_texts(model, prompts, options, Path(arguments.output)):
        command.log(f'{arguments.output}: written')
    if arguments.draft is not None:
        log_draft_statistics(model)


def log_draft_statistics(model: Any) -> None:
    """Log the share of the draft's tokens that were accepted."""
    statistics = model.speculative_stats
    if statistics.readings:
        accepted = statistics.accepted / max(1, statistics.proposed)
        per_pass = (statistics.accepted + statistics.readings) / statistics.readings
        command.log(
            f'draft: {statistics.proposed} tokens proposed, {accepted:.0%} accepted; '
            f'{per_pass:.2f} tokens per pass of the model'
        )


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file: the lines of a text, or the column "prompt" of rows.

    Blank lines are skipped.

    Raises:
      UserError: the file cannot be read or holds no prompt.
    """
    try:
        file_format = readers.find_format(path)
    except UserError as error:
        raise UserError(f'--prompts={error}') from None
    if file_format.is_text:
        text = ''.join(chunk.text for chunk in readers.read_chunks(path, ''))
        # Not splitlines(): a prompt may contain other separators such as U+2028.
        prompts = [line.removesuffix('\r') for line in text.split('\n') if line.strip()]
    else:
        prompts = []
        for location, row in readers.read_rows(path):
            if not isinstance(row.get('prompt'), str):
                raise UserError(f'{location}: must have text in the column "prompt"')
            prompts.append(row['prompt'])
    if not prompts:
        raise UserError(f'{path}: contains no prompt')
    return prompts
