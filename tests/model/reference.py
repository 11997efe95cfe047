"""A GPT-2 written apart from the library: numpy, float64, one sequence at a time, loops where loops are clear.

Radford et al. 2019 over Radford et al. 2018: pre-norm blocks, learned positions, tanh GELU, tied head.
"""

import numpy as np


def logits(params: dict, tokens: np.ndarray, heads: int, epsilon: float = 1e-5) -> np.ndarray:
    """[length] ids -> [length, vocabulary]."""
    p = {key: {k: np.asarray(v, np.float64) for k, v in _flat(value).items()} for key, value in params.items()}
    table, positions = p['embedding']['table_VD'], p['position']['table']
    x = np.stack([table[token] + positions[place] for place, token in enumerate(tokens)])
    blocks = p['blocks']
    for layer in range(blocks['norm_1/scale'].shape[0]):
        b = {name: value[layer] for name, value in blocks.items()}
        x = x + _attention(_norm(x, b['norm_1/scale'], b['norm_1/bias'], epsilon), b, heads)
        h = _norm(x, b['norm_2/scale'], b['norm_2/bias'], epsilon) @ b['feedforward/up'] + b['feedforward/up_bias']
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ b['feedforward/down'] + b['feedforward/down_bias']
    return _norm(x, p['norm']['scale'], p['norm']['bias'], epsilon) @ table.T


def _attention(x: np.ndarray, b: dict, heads: int) -> np.ndarray:
    y = np.zeros_like(x) + b['attention/output_bias']
    shared = heads // b['attention/key'].shape[1]
    for head in range(heads):
        group = head // shared
        q = x @ b['attention/query'][:, head] + b['attention/query_bias'][head]
        k = x @ b['attention/key'][:, group] + b['attention/key_bias'][group]
        v = x @ b['attention/value'][:, group] + b['attention/value_bias'][group]
        scores = q @ k.T / np.sqrt(q.shape[1])
        scores[np.triu_indices(len(x), 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        y += weights / weights.sum(axis=1, keepdims=True) @ v @ b['attention/output'][head]
    return y


def _norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias


def _flat(tree: dict, prefix: str = '') -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f'{prefix}{key}/') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return flat
