"""Training speed of nanoGPT's model on this CPU.

The model and its parameter groups come from a checkout of github.com/karpathy/nanoGPT, which is not
part of this repository. One step is forward, backward, clip to norm 1.0, fused AdamW. nanoGPT
itself uses fused AdamW on GPUs only; whether it is faster on a CPU was not measured. Needs PyTorch
and numpy:

    python experiments/cpu_speed/peers/nanogpt.py --nanogpt=DIR --layers=4 --width=128 --heads=4 \
        --context=256 --batch=16 --vocab=256 --steps=20 --variant=compiled_bfloat16
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# (compiled, autocast dtype of matmul operands); parameters are always float32.
VARIANTS: dict[str, tuple[bool, torch.dtype | None]] = {
    'eager': (False, None),
    'compiled': (True, None),
    'compiled_bfloat16': (True, torch.bfloat16),
}
WARM_UP_STEPS = 3


def make_step(flags: argparse.Namespace) -> Callable[[], float]:
    """Return a function that takes one step on a fixed random batch; it returns nats."""
    compiled, operand_dtype = VARIANTS[flags.variant]
    nanogpt: Any = importlib.import_module('model')
    config = nanogpt.GPTConfig(
        block_size=flags.context,
        vocab_size=flags.vocab,
        n_layer=flags.layers,
        n_head=flags.heads,
        n_embd=flags.width,
        dropout=0.0,
        bias=True,
    )
    model = nanogpt.GPT(config)
    reference = model.configure_optimizers(
        weight_decay=0.1, learning_rate=1e-3, betas=(0.9, 0.95), device_type='cpu'
    )
    groups = [
        {'params': group['params'], 'weight_decay': group['weight_decay']}
        for group in reference.param_groups
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    forward = torch.compile(model) if compiled else model
    tokens = np.random.default_rng(0).integers(0, flags.vocab, (flags.batch, flags.context + 1))
    inputs, targets = (
        torch.from_numpy(tokens[:, :-1].copy()),
        torch.from_numpy(tokens[:, 1:].copy()),
    )

    def step() -> float:
        context = (
            torch.autocast('cpu', dtype=operand_dtype)
            if operand_dtype
            else contextlib.nullcontext()
        )
        with context:
            _, loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the record of one run.

    `compile_seconds` is the first step's time minus the median's; it is smaller if the model is in
    Inductor's disk cache.
    """
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sys.path.insert(0, flags.nanogpt)
    step = make_step(flags)
    seconds, losses = [], []
    for _ in range(1 + WARM_UP_STEPS + flags.steps):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1 + WARM_UP_STEPS :])
    source = hashlib.sha256((Path(flags.nanogpt) / 'model.py').read_bytes()).hexdigest()[:12]
    return {
        'name': 'nanogpt',
        'variant': flags.variant,
        'tokens_per_second': flags.batch * flags.context / median,
        'step_seconds_median': median,
        'compile_seconds': max(0.0, seconds[0] - median) if VARIANTS[flags.variant][0] else 0.0,
        'loss_first': losses[0],
        'loss_last': losses[-1],
        'versions': {
            'python': platform.python_version(),
            'torch': torch.__version__,
            'model.py': source,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--nanogpt', required=True, help='checkout of nanoGPT')
    for name in ('layers', 'width', 'heads', 'context', 'batch', 'vocab', 'steps'):
        parser.add_argument(f'--{name}', type=int, required=True)
    parser.add_argument('--variant', choices=VARIANTS, required=True)
    flags = parser.parse_args()
    if not (Path(flags.nanogpt) / 'model.py').is_file():
        parser.error(f'--nanogpt={flags.nanogpt}: has no model.py; must be a checkout of nanoGPT')
    print(json.dumps(measure(flags)))


if __name__ == '__main__':
    main()
