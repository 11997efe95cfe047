"""A GPT that is independent of the library: numpy, float64, one sequence and one head at a time.

It implements every architecture that a config can name, from the papers that gpt_jax/model cites.
Experts are dropless; test_experts.py checks what a capacity drops against its own loop.
"""

import dataclasses
import math

import numpy as np


def logits(params: dict, tokens: np.ndarray, c, routers: list | None = None) -> np.ndarray:
    """Compute the logits: [length] ids -> [length, vocabulary].

    Args:
      params: stacked, as the model initializes them.
      tokens: ids of one sequence.
      c: the model's config.
      routers: a list to which each layer's router logits [length, experts] are appended.
    """
    p = {key: np.asarray(value, np.float64) for key, value in _flatten(params).items()}
    table = p['embedding/table_VD'][: c.vocab_size]
    x = table[tokens] * (math.sqrt(c.width) if c.scale_embedding else 1)
    if c.position == 'learned':
        x = x + p['position/table'][: len(tokens)]
    for layer in range(c.layers):
        b = {
            name.removeprefix('blocks/'): value[layer]
            for name, value in p.items()
            if name.startswith('blocks/')
        }
        kind = c.attention_pattern[layer % len(c.attention_pattern)]
        window = c.window if kind == 'window' else len(tokens)
        layer_config = c
        if kind == 'window' and c.window_rotary_base:
            layer_config = dataclasses.replace(
                c, rotary_base=c.window_rotary_base, rotary_scaling='none'
            )
        norms = [lambda x, n=n, b=b: _norm(x, b, f'norm_{n}/', c) for n in range(1, 5)]
        divisor = math.sqrt(c.attention_scale_dim)
        if c.attention_layer_scaling:
            divisor *= layer + 1
        attend = lambda x, b=b, c=layer_config, w=window, d=divisor: _attention(x, b, c, w, d)
        feed = lambda x, b=b: _feed(x, b, c, routers)
        if c.block == 'post_norm':
            x = norms[0](x + attend(x))
            x = norms[1](x + feed(x))
        elif c.block == 'parallel':
            x = x + attend(norms[0](x)) + feed(norms[0](x))
        elif c.block == 'output_norm':
            x = x + norms[0](attend(x))
            x = x + norms[1](feed(x))
        elif c.block == 'sandwich_norm':
            x = x + norms[2](attend(norms[0](x)))
            x = x + norms[3](feed(norms[1](x)))
        elif c.block == 'parallel_two_norms':
            x = x + attend(norms[0](x)) + feed(norms[1](x))
        else:
            x = x + attend(norms[0](x))
            x = x + feed(norms[1](x))
    if c.final_norm:
        x = _norm(x, p, 'norm/', c)
    z = x @ (table if c.tied_head else p['head/weight_VD'][: c.vocab_size]).T
    return c.logit_softcap * np.tanh(z / c.logit_softcap) if c.logit_softcap else z


def _attention(x: np.ndarray, b: dict, c, window: int, divisor: float) -> np.ndarray:
    length, y = len(x), np.zeros_like(x)
    distance = np.arange(length)[:, None] - np.arange(length)
    queries, keys = (_project(x, b, name, c) for name in ('query', 'key'))
    for head in range(c.heads):
        group = head // (c.heads // c.kv_heads)
        q, k, v = queries[head], keys[group], x @ b['attention/value'][:, group]
        if c.bias or c.qkv_bias:
            v = v + b['attention/value_bias'][group]
        if c.position == 'rotary':
            q, k = _rotate(q, c), _rotate(k, c)
        scores = q @ k.T / divisor
        if c.attention_softcap:
            scores = c.attention_softcap * np.tanh(scores / c.attention_softcap)
        if c.position == 'alibi':
            # The slopes for a power of two of heads.
            scores = scores - 2 ** (-8 * (head + 1) / c.heads) * distance
        scores[(distance < 0) | (distance >= window)] = -np.inf
        if c.attention_sink:
            sink = np.full((length, 1), b['attention/sink'][head])
            scores = np.concatenate([scores, sink], axis=1)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights = (weights / weights.sum(axis=1, keepdims=True))[:, :length]
        y += weights @ v @ b['attention/output'][head]
    return y + b['attention/output_bias'] if c.bias else y


def _project(x: np.ndarray, b: dict, name: str, c) -> list[np.ndarray]:
    """Return the queries or keys of each head, normalized if the config asks for it."""
    heads = [x @ matrix for matrix in np.moveaxis(b[f'attention/{name}'], 1, 0)]
    if c.bias or c.qkv_bias:
        heads = [a + bias for a, bias in zip(heads, b[f'attention/{name}_bias'], strict=True)]
    if not c.qk_norm:
        return heads
    scale = b[f'attention/{name}_norm'] + (c.norm == 'zero_centered_rms')
    if c.qk_norm_per_head:
        return [_rms(a, c) * scale for a in heads]
    together = _rms(np.concatenate(heads, axis=1), c) * scale.ravel()
    return np.split(together, len(heads), axis=1)


def _rotate(a: np.ndarray, c) -> np.ndarray:
    """Multiply each pair of dims, as a complex number, with exp(i x position x frequency)."""
    dims = int(c.head_dim * c.rotary_fraction)
    base = c.rotary_base
    if c.rotary_scaling == 'ntk':
        base = base * c.rotary_factor ** (dims / (dims - 2))
    magnitude, rotated = 1.0, np.array(a, np.float64)
    if c.rotary_scaling == 'yarn':
        magnitude = 0.1 * math.log(c.rotary_factor) + 1
    for i in range(dims // 2):
        frequency = _scale_frequency(base ** (-2 * i / dims), i, dims, c)
        rotation = np.exp(1j * frequency * np.arange(len(a)))
        pair = (a[:, i] + 1j * a[:, i + dims // 2]) * rotation * magnitude
        rotated[:, i], rotated[:, i + dims // 2] = pair.real, pair.imag
    return rotated


def _scale_frequency(frequency: float, i: int, dims: int, c) -> float:
    if c.rotary_scaling == 'linear':
        return frequency / c.rotary_factor
    if c.rotary_scaling == 'llama3':
        wavelength = 2 * math.pi / frequency
        if wavelength > c.rotary_original_context:
            return frequency / c.rotary_factor
        if wavelength < c.rotary_original_context / 4:
            return frequency
        smooth = (c.rotary_original_context / wavelength - 1) / (4 - 1)
        return (1 - smooth) * frequency / c.rotary_factor + smooth * frequency
    if c.rotary_scaling == 'yarn':

        def pair_index(rotations: int) -> float:
            ratio = c.rotary_original_context / (rotations * 2 * math.pi)
            return dims * math.log(ratio) / (2 * math.log(c.rotary_base))

        low = max(math.floor(pair_index(32)), 0)
        high = min(math.ceil(pair_index(1)), dims - 1)
        share = min(max((i - low) / max(high - low, 0.001), 0), 1)
        return frequency / c.rotary_factor * share + frequency * (1 - share)
    return frequency


def _feed(x: np.ndarray, b: dict, c, routers: list | None) -> np.ndarray:
    weights = {name.removeprefix('feedforward/'): value for name, value in b.items()}
    if c.feedforward == 'experts':
        return _experts(x, weights, c, routers)
    h = x @ weights['up'] + (weights['up_bias'] if c.bias else 0)
    if c.feedforward == 'gated':
        gate = x @ weights['gate'] + (weights['gate_bias'] if c.bias else 0)
        h = h * _activation(gate, c.activation)
    else:
        h = _activation(h, c.activation)
    return h @ weights['down'] + (weights['down_bias'] if c.bias else 0)


def _experts(x: np.ndarray, b: dict, c, routers: list | None) -> np.ndarray:
    """Token by token, expert by expert."""
    y, scores = np.zeros_like(x), x @ b['router']
    if routers is not None:
        routers.append(scores)
    for t in range(len(x)):
        for expert, weight in choose_experts(scores[t], c).items():
            y[t] += weight * expert_output(x[t], b, expert, c)
    if c.shared_experts:
        h = _activation(x @ b['shared_gate'], c.activation) * (x @ b['shared_up'])
        y += h @ b['shared_down']
    return y


def choose_experts(scores: np.ndarray, c) -> dict[int, float]:
    """Return the weights of a token's experts, the most probable first; scores [experts]."""
    p = np.exp(scores - scores.max())
    p /= p.sum()
    chosen = sorted(range(c.experts), key=lambda expert: -p[expert])[: c.experts_per_token]
    total = sum(p[expert] for expert in chosen) if c.normalize_experts else 1
    return {expert: p[expert] / total for expert in chosen}


def expert_output(x: np.ndarray, b: dict, expert: int, c) -> np.ndarray:
    """[D] -> [D]."""
    h = _activation(x @ b['gate'][expert], c.activation) * (x @ b['up'][expert])
    return h @ b['down'][expert]


def _activation(x: np.ndarray, name: str) -> np.ndarray:
    if name == 'gelu':
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if name == 'gelu_exact':
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    relu, sigmoid = np.maximum(x, 0), 1 / (1 + np.exp(-x))
    return {
        'relu': relu,
        'squared_relu': relu**2,
        'silu': x * sigmoid,
        'sigmoid': sigmoid,
        'identity': x,
    }[name]


def _norm(x: np.ndarray, p: dict, name: str, c) -> np.ndarray:
    if c.norm.endswith('rms'):
        return _rms(x, c) * (p[f'{name}scale'] + (c.norm == 'zero_centered_rms'))
    mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    y = (x - mean) / np.sqrt(variance + c.norm_epsilon) * p[f'{name}scale']
    return y + p[f'{name}bias'] if c.bias else y


def _rms(x: np.ndarray, c) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + c.norm_epsilon)


def _flatten(tree: dict, prefix: str = '') -> dict:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f'{prefix}{key}/')
        else:
            flat[f'{prefix}{key}'] = value
    return flat
