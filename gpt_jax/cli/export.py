"""Write a run as a folder that transformers loads, or its adapters as a folder that PEFT loads.

examples:
  gpt-jax export runs/gpt_tiny exported
  gpt-jax export runs/tuned adapters --adapters
"""

import argparse
import json
import os
from pathlib import Path

from gpt_jax.cli.arguments import parse_path
from gpt_jax.core import command, files
from gpt_jax.core.config import default_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('run', type=parse_path, metavar='RUN', help='the run folder')
    parser.add_argument(
        'output', type=parse_path, metavar='OUTPUT', help='folder to write; must be new or empty'
    )
    parser.add_argument(
        '--dtype',
        default='float32',
        choices=('float32', 'bfloat16', 'float16'),
        help='dtype of the written weights (default: %(default)s)',
    )
    parser.add_argument(
        '--adapters',
        action='store_true',
        help="write only the run's LoRA adapters; by default, they are merged into the weights",
    )


def run(arguments: argparse.Namespace) -> None:
    os.environ['JAX_PLATFORMS'] = 'cpu'  # weights are only copied
    from gpt_jax.core import jax_setup
    from gpt_jax.trainer import export_weights

    jax_setup.start_jax(1, '')
    folder, output = Path(arguments.run), Path(arguments.output).resolve()
    files.check_writable(output, 'OUTPUT')
    if arguments.adapters:
        done = export_weights.export_adapters(folder, output, arguments.dtype, command.log)
    else:
        done = export_weights.export_weights(
            folder, output, default_config(), arguments.dtype, command.log
        )
    print(json.dumps(done))
