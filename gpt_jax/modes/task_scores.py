"""How well does a model do a split of its task? Its questions decided, or its answers' loss, on the training's mesh."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpt_jax.assemble import Program, Settings
from gpt_jax.data.packed import Packed
from gpt_jax.data.pipeline import in_order
from gpt_jax.data.task import TaskConfig
from gpt_jax.data.task_corpus import TaskCorpus
from gpt_jax.evaluate import metrics
from gpt_jax.evaluate.perplexity import mean_loss
from gpt_jax.finetune.head import HEADED, candidates
from gpt_jax.modes.text_scores import watched
from gpt_jax.observe.progress import Progress


class Decided(NamedTuple):
    """Every question of a split, in the order of the examples: scores float64 [Q, Y], answers int [Q], and of which
    example each is, int [Q]."""

    scores: np.ndarray
    answers: np.ndarray
    example: np.ndarray


def scores(
    settings: Settings, program: Program, corpus: TaskCorpus, split: str, params: Any, line: Progress
) -> dict[str, float]:
    """'loss' in nats, of an answer's tokens or of a question; of questions also 'accuracy' and the task's metrics."""
    rows, batch = corpus.splits[split], settings.train.evaluation_batch
    if settings.task.kind not in (*HEADED, 'prefer'):
        index, parts = program.share()
        local = in_order(len(rows), rows.take, batch=batch, process_index=index, process_count=parts)
        batches = watched(program.on_devices(local), -(-len(rows) // batch), line)
        return {'loss': mean_loss(program.evaluate, params, batches)}
    found = decide(settings, program, rows, params, line)
    log_p = found.scores - np.logaddexp.reduce(found.scores, axis=-1, keepdims=True)
    if settings.task.kind == 'prefer':
        margin = settings.task.beta * (found.scores[:, 0] - found.scores[:, 1])
        return {'loss': float(np.mean(np.logaddexp(0, -margin))), 'accuracy': float(np.mean(margin > 0))}
    taken = np.argmax(found.scores, axis=-1)
    loss = -float(np.mean(log_p[np.arange(len(taken)), found.answers]))
    accuracy = {'loss': loss, 'accuracy': float(np.mean(taken == found.answers))}
    return accuracy | {name: _named(settings.task, name, found, taken) for name in settings.task.metrics}


def _named(task: TaskConfig, name: str, found: Decided, taken: np.ndarray) -> float:
    if task.kind != 'label':
        return metrics.LABEL_METRICS[name].function(taken.tolist(), found.answers.tolist())
    ends = np.nonzero(np.diff(found.example))[0] + 1  # of the sentences but the last
    words = [
        [[task.labels[n] for n in sentence] for sentence in np.split(side, ends)] for side in (taken, found.answers)
    ]
    return metrics.TAG_METRICS[name].function(*words)


def decide(settings: Settings, program: Program, rows: Packed, params: Any, line: Progress) -> Decided:
    """What the model says to each question."""
    count, context = candidates(settings.task), rows.context
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for first, fields, values_BLY in read(settings, program, rows, params, line):
        if settings.task.kind == 'prefer':
            values_BLY = values_BLY - fields['reference'][..., None]
        row, place = np.nonzero(fields['questions'])
        flat = row * (context + 1) + fields['questions'][row, place]
        unique, which = np.unique(flat, return_inverse=True)
        total, answers = np.zeros((len(unique), count)), np.zeros(len(unique), np.int64)
        if values_BLY.shape[-1] < count:
            slots = fields['slots'][row, place]
            total[:] = -np.inf
            total[which, slots] = 0
            np.add.at(total, (which, slots), values_BLY[row, place, 0])
        else:
            np.add.at(total, which, values_BLY[row, place])
        answers[which] = fields['answers'][row, place]
        owners = [_owners(rows, first + n) for n in range(len(fields['questions']))]
        example = np.array([owners[at // (context + 1)][at % (context + 1) - 1] for at in unique], np.int64)
        found.append((total, answers, example))
    total, answers, example = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(example, kind='stable')
    return Decided(total[order], answers[order], example[order])


def _owners(rows: Packed, number: int) -> list[int]:
    """The example of each question of a row."""
    if number >= len(rows):
        return []
    return [one for one in rows.rows[number] for _ in rows.examples[one].stretches[0].answers]


def read(
    settings: Settings, program: Program, rows: Packed, params: Any, line: Progress
) -> Iterator[tuple[int, dict[str, np.ndarray], np.ndarray]]:
    """(number of the first row, a global batch of rows, what the model finds at every place [B, L, Y]), float64."""
    batch, (index, parts) = settings.train.evaluation_batch, program.share()
    local = in_order(len(rows), rows.take, batch=batch, process_index=index, process_count=parts)
    total = -(-len(rows) // batch)
    for number, fields in enumerate(watched(program.on_devices(local), total, line)):
        values = program.read(params, fields)
        if jax.process_count() > 1:
            values = multihost_utils.process_allgather(values, tiled=True)
        whole = rows.take(np.arange(number * batch, (number + 1) * batch))
        yield number * batch, whole, np.asarray(values, np.float64)


def with_references(settings: Settings, program: Program, rows: Packed, params: Any, line: Progress) -> Packed:
    """The same rows with log p of every target under these params, to which preferences are compared."""
    made: list[Any] = [None] * len(rows.examples)
    plain = dataclasses.replace(rows, references=None)
    for first, _, values_BLY in read(settings, program, plain, params, line):
        for row, log_p_L in enumerate(values_BLY[..., 0]):
            place = 0
            for number in rows.rows[first + row] if first + row < len(rows) else ():
                made[number] = []
                for one in rows.examples[number].stretches:
                    made[number].append(log_p_L[place : place + one.inputs].astype(np.float32))
                    place += one.inputs
    return dataclasses.replace(rows, references=made)
