"""Records and config.json of a finished isoFLOP sweep under a known law."""

import json
from pathlib import Path
from typing import Any

from gpt_jax.scaling.plan import design
from gpt_jax.scaling.plan.shapes import GPT2, Shape
from tests.scaling import synthetic

CONTEXT, VOCAB, BATCH = 512, 1000, 8
WIDTHS = (64, 96, 128, 192, 256)
# Its optimum goes from 0.34M parameters at 1e14 FLOPs to 1.4M at 2e15.
LAW = {'E': 1.5, 'A': 200.0, 'B': 600.0, 'alpha': 0.34, 'beta': 0.3}


def shape(width: int, layers: int = 2) -> Shape:
    return Shape(layers, width, width // 32, CONTEXT, VOCAB)


def rule(layers: int, width: int, heads: int) -> dict[str, Any]:
    del layers, heads
    return {
        'model.init_std': round(0.5 / width**0.5, 4),
        'optimizer.learning_rate': round(0.4 / width, 5),
    }


def record(trial: dict[str, Any], budget: float, law: dict[str, float]) -> dict[str, Any]:
    one = shape(trial['model.width'], trial['model.layers'])
    counts, per_token = GPT2.count_parameters(one), GPT2.flops_per_token(one)
    steps = round(budget / (per_token['6N'] * BATCH * CONTEXT))
    tokens = steps * BATCH * CONTEXT
    return {
        'name': trial['name'],
        'status': 'done',
        'steps': steps,
        'tokens': tokens,
        'validation_loss': float(synthetic.loss(counts['without_positions'], tokens, law)),
        **{f'params_{name}': value for name, value in counts.items()},
        'flops_6N': per_token['6N'] * tokens,
        'flops_with_attention': per_token['with_attention'] * tokens,
        'layers': one.layers,
        'width': one.width,
        'heads': one.heads,
        'context': CONTEXT,
        'vocab_size': VOCAB,
        'batch': BATCH,
        'learning_rate': trial['optimizer.learning_rate'],
        'seed': 0,
    }


def write(
    folder: Path,
    budgets: dict[float, tuple[int, ...]],
    law: dict[str, float] = LAW,
    *,
    config: bool = True,
) -> tuple[str, list[dict[str, Any]]]:
    """(the path of records.jsonl, the trials), with the widths of each budget."""
    sizes = {budget: [shape(width)[:3] for width in widths] for budget, widths in budgets.items()}
    trials = list(design.make_isoflop(sizes, rule))
    path = folder / 'records.jsonl'
    path.write_text(
        ''.join(json.dumps(record(one, one['train.flops'], law)) + '\n' for one in trials)
    )
    if config:
        (folder / 'config.json').write_text(json.dumps({'sweep': {'trials': trials}}))
    return str(path), trials
