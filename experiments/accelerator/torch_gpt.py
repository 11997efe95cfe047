"""Training speed of a GPT-2 in PyTorch on this GPU or CPU, for comparison.

The model follows the description in Radford et al. 2019: pre-norm blocks, learned positions, tanh
GELU, biases everywhere, the head tied to the token embedding. Parameters are float32, matmul
operands bfloat16 by autocast; one step is forward, backward, clip to norm 1.0, fused AdamW. With
`--nanogpt=DIR`, the model in that checkout of github.com/karpathy/nanoGPT, which is not part of
this repository, is measured instead. Needs PyTorch and numpy:

    python experiments/accelerator/torch_gpt.py --layers=12 --width=768 --heads=12 \
        --context=1024 --batch=32 --vocab=50304 --steps=20 --device=cuda --compiled=1
"""

import argparse
import importlib
import itertools
import json
import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

WARM_UP_STEPS = 5


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), for x [batch, length, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self.qkv(self.attention_norm(x))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(x)), approximate='tanh'))


class Gpt(nn.Module):
    """GPT-2; `forward(inputs, targets)` maps [batch, length] token ids to the mean loss in nats."""

    def __init__(self, layers: int, width: int, heads: int, context: int, vocab: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                # Section 2.3: residual projections are scaled by 1/sqrt(residual layers).
                is_residual = name.endswith('_out.weight')
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if is_residual else 0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(weight)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def load_nanogpt(
    folder: str, layers: int, width: int, heads: int, context: int, vocab: int
) -> nn.Module:
    """Build nanoGPT's model from the checkout in `folder`, with biases and without dropout.

    Raises:
      FileNotFoundError: `folder` has no model.py.
    """
    if not (Path(folder) / 'model.py').is_file():
        raise FileNotFoundError(
            f'--nanogpt={folder}: has no model.py; must be a checkout of nanoGPT'
        )
    sys.path.insert(0, folder)
    nanogpt: Any = importlib.import_module('model')
    sizes = {
        'n_layer': layers,
        'n_embd': width,
        'n_head': heads,
        'block_size': context,
        'vocab_size': vocab,
    }
    return nanogpt.GPT(nanogpt.GPTConfig(**sizes, dropout=0.0, bias=True))


def make_step(
    model: nn.Module, context: int, batch: int, vocab: int, device: str, compiled: bool
) -> Callable[[], Any]:
    """Return a function that takes one step on a fixed random batch and returns its loss.

    The loss may not be computed yet when the function returns.
    """
    decayed = [weight for weight in model.parameters() if weight.ndim >= 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{'params': decayed, 'weight_decay': 0.1}, {'params': others, 'weight_decay': 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    tokens = np.random.default_rng(0).integers(0, vocab, (batch, context + 1))
    inputs = torch.from_numpy(tokens[:, :-1].copy()).to(device)
    targets = torch.from_numpy(tokens[:, 1:].copy()).to(device)
    forward = torch.compile(model) if compiled else model

    def step() -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            output = forward(inputs, targets)
            # nanoGPT's model returns (logits, loss).
            loss = output[1] if isinstance(output, tuple) else output
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def time_steps(step: Callable[[], Any], steps: int, device: str) -> list[float]:
    """Return the seconds of each of `steps` steps.

    On a GPU, CUDA events mark the steps, so that the host may run ahead.
    """
    if device == 'cpu':
        marks = [time.perf_counter()]
        for _ in range(steps):
            step()
            marks.append(time.perf_counter())
        return [after - before for before, after in itertools.pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in itertools.pairwise(events)]


def read_peak_memory(device: str) -> int:
    """Return the allocator's peak bytes on a GPU; on a CPU the process's peak resident size."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(
    layers: int,
    width: int,
    heads: int,
    context: int,
    batch: int,
    vocab: int,
    steps: int,
    device: str,
    compiled: bool,
    nanogpt: str | None = None,
) -> dict[str, Any]:
    """Time `steps` steps of `batch` sequences of `context` tokens.

    Args:
      layers, width, heads, context, batch, vocab: the model and its batch.
      steps: timed steps, after the warm-up.
      device: 'cuda' (the current GPU) or 'cpu'.
      compiled: whether to use torch.compile.
      nanogpt: a checkout of nanoGPT, whose model is measured instead.

    Returns:
      'tokens_per_second' of the median step; 'peak_memory_bytes'; 'compile_seconds', the first
      step's time minus the median's; the losses in nats before the first update and at the end;
      'parameters', all of them, the tied matrix once; versions.
    """
    torch.manual_seed(0)
    torch.set_float32_matmul_precision('high')
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sizes = (layers, width, heads, context, vocab)
    model = (load_nanogpt(nanogpt, *sizes) if nanogpt else Gpt(*sizes)).to(device)
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    step = make_step(model, context, batch, vocab, device, compiled)
    start = time.perf_counter()
    loss_first = step().item()
    first = time.perf_counter() - start
    for _ in range(WARM_UP_STEPS):
        step()
    median = statistics.median(time_steps(step, steps, device))
    return {
        'name': 'nanogpt' if nanogpt else 'torch_gpt',
        'device': torch.cuda.get_device_name() if device == 'cuda' else 'cpu',
        'compiled': compiled,
        'parameters': sum(weight.numel() for weight in model.parameters()),
        'tokens_per_second': batch * context / median,
        'step_seconds_median': median,
        'compile_seconds': max(0.0, first - median) if compiled else 0.0,
        'peak_memory_bytes': read_peak_memory(device),
        'loss_first': loss_first,
        'loss_last': step().item(),
        'versions': {
            'python': platform.python_version(),
            'torch': torch.__version__,
            'cuda': torch.version.cuda,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ('layers', 'width', 'heads', 'context', 'batch', 'vocab', 'steps'):
        parser.add_argument(f'--{name}', type=int, required=True)
    parser.add_argument('--device', choices=('cuda', 'cpu'), required=True)
    parser.add_argument('--compiled', type=int, choices=(0, 1), required=True)
    parser.add_argument('--nanogpt', help='checkout of nanoGPT: measure its model instead')
    flags = vars(parser.parse_args())
    try:
        record = measure(**flags | {'compiled': bool(flags['compiled'])})
    except FileNotFoundError as error:
        parser.error(str(error))
    print(json.dumps(record))


if __name__ == '__main__':
    main()
