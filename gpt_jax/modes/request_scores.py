"""How likely are continuations under params in training? As for a loaded model, on the training's mesh."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from gpt_jax.assemble import Program, Settings
from gpt_jax.evaluate import scoring
from gpt_jax.evaluate.scoring import Batch, Request, Scored


def score(
    settings: Settings, program: Program, params: Any, requests: Sequence[Request],
    note: Callable[[int, int], None] | None = None,
) -> list[Scored]:  # fmt: skip
    """The score of each request (evaluate/scoring.py), in their order; every process gives all and gets all.

    Rows are as in evaluations of the loss: `train.evaluation_batch` of them, and as long as the model's context, which
    the mesh and the kernel are known to take.
    """
    context, batch = settings.model.context, settings.train.evaluation_batch
    index, parts = program.share()

    def read(whole: Batch) -> tuple[Any, Any]:
        mine = {name: rows[index * batch // parts : (index + 1) * batch // parts] for name, rows in whole.items()}
        found = program.score(params, next(program.on_devices(iter([mine]))))
        if jax.process_count() > 1:
            found = multihost_utils.process_allgather(found, tiled=True)
        return found

    return scoring.score(read, requests, context=context, rows=batch, ways=batch, least=context, note=note)
