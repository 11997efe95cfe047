"""Synthetic runs that follow a known law."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.scaling import compute_optimal
from gpt_jax.scaling.runs import Runs

TRUTH = {'E': 1.8, 'A': 420.0, 'B': 1300.0, 'alpha': 0.34, 'beta': 0.3}


def loss(params: Any, tokens: Any, truth: dict[str, float] = TRUTH) -> np.ndarray:
    return (
        truth['E']
        + truth['A'] / np.asarray(params) ** truth['alpha']
        + truth['B'] / np.asarray(tokens) ** truth['beta']
    )


def runs(params: Any, tokens: Any, losses: Any, **more: Any) -> Runs:
    params, tokens, losses = (np.asarray(values, float) for values in (params, tokens, losses))
    sizes = np.stack([params, tokens, more.get('unique_tokens', np.zeros(len(params)))], axis=1)
    return Runs(
        params=params,
        tokens=tokens,
        loss=losses,
        flops=6 * params * tokens,
        extra={name: np.asarray(values, float) for name, values in more.items()},
        names=[f'run {i}' for i in range(len(params))],
        rows=np.arange(1, len(params) + 1),
        files=['made'] * len(params),
        clusters=np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1),
        left_out=[],
        curves=[[] for _ in params],
        provenance={
            'file': 'made',
            'sha256': '0' * 64,
            'count': 'as given',
            'flops': '6ND',
            'loss_unit': 'nats',
        },
    )


def grid(sizes: int = 10, lengths: int = 8, noise: float = 0.0, seed: int = 0) -> Runs:
    """Every size at every length."""
    n, d = (
        a.ravel()
        for a in np.meshgrid(np.geomspace(1e6, 1e10, sizes), np.geomspace(1e8, 1e12, lengths))
    )
    random = np.random.default_rng(seed)
    return runs(n, d, loss(n, d) * np.exp(noise * random.standard_normal(n.size)))


def isoflop(
    truth: dict[str, float] = TRUTH, budgets: int = 6, sizes: int = 9, reach: float = 3.0
) -> Runs:
    """Sizes from 1/`reach` to `reach` times the optimum at each budget."""
    flops = np.geomspace(1e18, 1e22, budgets)
    best, _ = compute_optimal.compute_split(truth).at(flops)
    n = (best[:, None] * np.geomspace(1 / reach, reach, sizes)).ravel()
    c = np.repeat(flops, sizes)
    return runs(n, c / (6 * n), loss(n, c / (6 * n), truth), budget=c)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def rows(given: Runs) -> list[dict[str, Any]]:
    return [
        {'params': float(n), 'tokens': float(d), 'loss': float(one)}
        for n, d, one in zip(given.params, given.tokens, given.loss, strict=True)
    ]
