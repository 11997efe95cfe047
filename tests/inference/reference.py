"""Reference implementation of generation: NumPy, float64, one text at a time."""

import numpy as np


def distribution(scores: np.ndarray, tokens: list[int], prompt: int, **options) -> np.ndarray:
    """Return p of the next id [V] after `tokens`, the first `prompt` of which are the prompt's.

    Excluded ids have probability 0. `ends`: ids that end a text.
    """
    z = np.array(scores, np.float64)
    if (penalty := options.get('repetition_penalty', 1.0)) != 1.0:
        for id_ in set(tokens):
            z[id_] = z[id_] * penalty if z[id_] < 0 else z[id_] / penalty
    for id_ in set(tokens[prompt:]):
        z[id_] -= options.get('presence_penalty', 0.0)
    for id_ in tokens[prompt:]:
        z[id_] -= options.get('frequency_penalty', 0.0)
    if n := options.get('no_repeat_ngram_size', 0):
        for start in range(len(tokens) - n + 1):
            if tokens[start : start + n - 1] == tokens[len(tokens) - n + 1 :]:
                z[tokens[start + n - 1]] = -np.inf
    if len(tokens) < options.get('min_length', 0):
        z[list(options['ends'])] = -np.inf
    z = z / options.get('temperature', 1.0)
    for name in ('top_k', 'top_p', 'min_p', 'typical_p'):
        if name in options:
            z = np.where(FILTERS[name](softmax(z), options[name]), z, -np.inf)
    return softmax(z)


def softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max())
    return p / p.sum()


def _top_k(p: np.ndarray, k: int) -> np.ndarray:
    keep = np.zeros(len(p), bool)
    keep[np.argsort(-p, kind='stable')[:k]] = True
    return keep


def _top_p(p: np.ndarray, mass: float) -> np.ndarray:
    keep, mass_kept = np.zeros(len(p), bool), 0.0
    for id_ in np.argsort(-p, kind='stable'):
        if mass_kept >= mass:
            break
        keep[id_], mass_kept = True, mass_kept + p[id_]
    return keep


def _min_p(p: np.ndarray, share: float) -> np.ndarray:
    return p >= share * p.max()


def _typical(p: np.ndarray, mass: float) -> np.ndarray:
    with np.errstate(divide='ignore'):
        surprise = -np.log(p)
    entropy = sum(p_ * surprise_ for p_, surprise_ in zip(p, surprise, strict=True) if p_ > 0)
    keep, mass_kept = np.zeros(len(p), bool), 0.0
    for id_ in np.argsort(np.abs(surprise - entropy), kind='stable'):
        if mass_kept >= mass:
            break
        keep[id_], mass_kept = True, mass_kept + p[id_]
    return keep


FILTERS = {'top_k': _top_k, 'top_p': _top_p, 'min_p': _min_p, 'typical_p': _typical}


def greedy(
    logits, prompt: list[int], limit: int, ends: set[int], window=lambda tokens: tokens, **options
) -> list[int]:
    """Generate greedily; `logits` (ids -> [length, V]) reads the whole text at every step."""
    tokens = list(prompt)
    while len(tokens) < limit:
        scores = np.asarray(logits(np.array(window(tokens))))[-1]
        tokens.append(
            int(np.argmax(distribution(scores, tokens, len(prompt), ends=ends, **options)))
        )
        if tokens[-1] in ends:
            break
    return tokens[len(prompt) :]


def best_texts(
    log_p, prompt: list[int], limit: int, ends: set[int], length_penalty: float, count: int
) -> list:
    """Return the `count` best (score, ids) of all texts up to `limit` tokens.

    score: sum of log p / length^length_penalty.
    log_p: ids -> log-probabilities of the next id [V].
    """
    finished, open_ = [], [(0.0, [])]
    while open_:
        total, ids = open_.pop()
        for id_, id_log_p in enumerate(log_p(prompt + ids)):
            longer = [*ids, id_]
            if id_ in ends or len(prompt) + len(longer) == limit:
                finished.append(((total + float(id_log_p)) / len(longer) ** length_penalty, longer))
            else:
                open_.append((total + float(id_log_p), longer))
    return sorted(finished, reverse=True)[:count]


def beam_search(
    log_p, prompt: list[int], limit: int, ends: set[int], beams: int, length_penalty: float, early
) -> list:
    """Beam search with lists; returns [(score, ids)], the best first. log_p: as in `best_texts`."""
    running, finished, improvable = [(0.0, [])], [], True
    for written in range(1, limit - len(prompt) + 1):
        candidates = [
            (total + float(id_log_p), [*ids, id_])
            for total, ids in running
            for id_, id_log_p in enumerate(log_p(prompt + ids))
        ]
        candidates = sorted(candidates, reverse=True)[: max(2, 1 + len(ends)) * beams]
        full = written == limit - len(prompt)
        ending = [full or ids[-1] in ends for _, ids in candidates]
        if improvable and not (early is True and len(finished) == beams):
            best = zip(candidates[:beams], ending, strict=False)
            new = [
                (total / written**length_penalty, ids)
                for (total, ids), ends_here in best
                if ends_here
            ]
            finished = sorted(finished + new, reverse=True)[:beams]
        running = [
            beam for beam, ends_here in zip(candidates, ending, strict=True) if not ends_here
        ][:beams]
        if full or (early is True and len(finished) == beams):
            break
        length = limit - len(prompt) if early == 'never' and length_penalty > 0 else written
        improvable = (
            len(finished) < beams or running[0][0] / length**length_penalty > finished[-1][0]
        )
        if not improvable:
            break
    return finished
