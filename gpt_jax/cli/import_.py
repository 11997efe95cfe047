"""Turn Hugging Face weights into a run folder: config, tokenizer and checkpoint.

Training, fine-tuning and generation then work as with any run of this library.

examples:
  gpt-jax import openai-community/gpt2
  gpt-jax import path/to/folder --workdir=runs/mine
"""

import argparse
import os
from pathlib import Path

from gpt_jax.cli.arguments import parse_path
from gpt_jax.core import command, files
from gpt_jax.core.config import default_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'source',
        type=parse_path,
        metavar='SOURCE',
        help='a Hugging Face folder, or NAME[@REVISION] on its hub',
    )
    parser.add_argument(
        '--workdir', type=parse_path, metavar='FOLDER', help='run folder (default: runs/NAME)'
    )


def run(arguments: argparse.Namespace) -> None:
    os.environ['JAX_PLATFORMS'] = 'cpu'  # weights are only copied
    from gpt_jax.core import jax_setup
    from gpt_jax.trainer import import_weights

    jax_setup.start_jax(1, '')
    name = import_weights.make_run_name(arguments.source)
    workdir = Path(arguments.workdir or Path('runs') / name).resolve()
    files.check_writable(workdir, '--workdir')
    import_weights.import_weights(arguments.source, default_config(), workdir, command.log)
