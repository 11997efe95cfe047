"""Plan what to train with a budget: one compute-optimal model, an isoFLOP sweep, or a trunk.

One model: sizes, a shape of whole layers, hours, a config file. An isoFLOP sweep: sizes around the
optimum of each budget. A trunk: one run at a constant learning rate, and the branches that cool
down from it.

examples:
  gpt-jax plan --flops=1e18 --runs=runs.jsonl
  gpt-jax plan --hours=24 --device=h100 --devices=8 --config=planned.py
  gpt-jax plan --isoflop=1e18,4e18,2e19 --runs=runs/small/records.jsonl --config=configs/sweep.py
  gpt-jax plan --isoflop=2e11,1e12 --head_dim=16 --layers=2 --context=128 --vocab=256 --base=cpu
  gpt-jax plan --cooldowns=1e9,2e9,4e9 --params=1e8 --config=configs/trunk.py
"""

import argparse

from gpt_jax.cli.arguments import (
    add_loss_unit_argument,
    parse_count,
    parse_numbers,
    parse_pairs,
    parse_path,
    parse_positive,
    parse_required_draws,
)
from gpt_jax.core.hardware import CHIPS
from gpt_jax.scaling.plan import DEFAULT_CONTEXT, DEFAULT_SIZES, DEFAULT_SPAN, DEFAULT_VOCAB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        '--flops', type=parse_positive, dest='budget', metavar='C', help='training FLOPs'
    )
    budget.add_argument(
        '--hours', type=parse_positive, metavar='H', help='hours on --devices of --device'
    )
    budget.add_argument(
        '--tokens', type=parse_positive, metavar='D', help='training tokens available'
    )
    budget.add_argument(
        '--isoflop', type=parse_numbers, metavar='C,...', help='a sweep: budgets of training FLOPs'
    )
    budget.add_argument(
        '--cooldowns',
        type=parse_numbers,
        metavar='D,...',
        help='a trunk: token counts at which branches end',
    )
    parser.add_argument(
        '--runs',
        type=parse_path,
        metavar='DATA',
        help='fit the law to these runs (default: the law of Besiroglu et al. 2024)',
    )
    parser.add_argument(
        '--columns',
        type=parse_pairs,
        default={},
        metavar='THEIRS=OURS,...',
        help='columns to rename',
    )
    parser.add_argument(
        '--count',
        default='',
        choices=[
            '',
            'total',
            'non_embedding',
            'without_positions',
            'active',
            'active_non_embedding',
        ],
        help='parameters counted as N (default: total)',
    )
    add_loss_unit_argument(parser)
    parser.add_argument(
        '--draws',
        type=parse_required_draws,
        default=400,
        help='draws of the posterior for the intervals of N* and D* (default: %(default)s)',
    )
    parser.add_argument(
        '--context',
        type=parse_count,
        help=f"context length (default: the runs' own, or {DEFAULT_CONTEXT})",
    )
    parser.add_argument(
        '--vocab',
        type=parse_count,
        help=f"vocabulary size (default: the runs' own, or {DEFAULT_VOCAB})",
    )
    parser.add_argument(
        '--device', default='h100', help=f'{", ".join(CHIPS)} (default: %(default)s)'
    )
    parser.add_argument(
        '--peak', type=parse_positive, default=None, help='peak FLOP/s of another device'
    )
    parser.add_argument('--devices', type=parse_count, default=1, help='number of devices')
    parser.add_argument(
        '--utilization',
        type=parse_positive,
        default=0.4,
        help='share of the peak that training reaches (default: %(default)s)',
    )
    parser.add_argument(
        '--measured',
        type=parse_path,
        metavar='PATH',
        help='peak and utilization from run.py --mode=benchmark --benchmark_output=PATH',
    )
    parser.add_argument(
        '--price', type=parse_positive, default=None, help='US dollars per device-hour'
    )
    parser.add_argument(
        '--config', type=parse_path, metavar='PATH', help='write a config file of the plan'
    )
    parser.add_argument('--json', type=parse_path, metavar='PATH', help='write all numbers as JSON')
    _add_sweep_arguments(parser.add_argument_group('for --isoflop or --cooldowns'))


def _add_sweep_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--sizes',
        type=parse_count,
        help='--isoflop: sizes per budget; an odd number puts one at N* '
        f'(default: {DEFAULT_SIZES})',
    )
    group.add_argument(
        '--span',
        type=parse_positive,
        help=f'--isoflop: largest size over N* (default: {DEFAULT_SPAN:g})',
    )
    group.add_argument(
        '--head_dim',
        type=parse_count,
        help="--isoflop: widths are multiples of it (default: the runs' own, or 64 and 128)",
    )
    group.add_argument(
        '--layers',
        type=parse_count,
        help="number of layers (default for --isoflop: the runs' own, or by width)",
    )
    group.add_argument('--width', type=parse_count, help='--cooldowns: width of the model')
    group.add_argument('--heads', type=parse_count, help='--cooldowns: heads of the model')
    group.add_argument(
        '--params',
        type=parse_positive,
        metavar='N',
        help='--cooldowns: parameters, for the nearest shape',
    )
    group.add_argument(
        '--warmup', type=parse_count, metavar='STEPS', help='--cooldowns: warmup steps of the trunk'
    )
    group.add_argument(
        '--batch',
        type=parse_count,
        help="sequences per step (default: the runs' own, or by DeepSeek-AI 2024)",
    )
    group.add_argument(
        '--learning_rate',
        type=parse_positive,
        help="peak rate of all trials (default: the runs' own by width, or by DeepSeek-AI 2024)",
    )
    group.add_argument(
        '--base',
        help='module of configs/ that gives the architecture and from which the config starts',
    )


def run(arguments: argparse.Namespace) -> None:
    from gpt_jax.scaling.plan import plan_command

    plan_command.plan(arguments)
