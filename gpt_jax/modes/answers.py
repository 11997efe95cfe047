"""How good are the answers that a model writes? A split's first ones, greedily, by the task's metrics."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax import inference
from gpt_jax.assemble import Settings
from gpt_jax.data.encoded import Encoded
from gpt_jax.data.examples import Answer
from gpt_jax.data.task_corpus import TaskCorpus
from gpt_jax.evaluate.metrics import METRICS
from gpt_jax.generate import options
from gpt_jax.generate.batching import Prompt
from gpt_jax.language_model import LanguageModel
from gpt_jax.observe.progress import Progress
from gpt_jax.pretrained import Pretrained

USUAL = ('exact_match', 'f1')


class Written(NamedTuple):
    """prompt, answer: as text. references: what would have been right."""

    prompt: str
    answer: str
    references: tuple[str, ...]


def write(settings: Settings, corpus: TaskCorpus, split: str, params: Any, line: Progress) -> list[Written]:
    """What the model answers to the first `task.written` examples of a split; of a dialogue, its last answer."""
    model = _model(settings, corpus, params)
    examples = [one for one in corpus.examples[split][: settings.task.written] if isinstance(one, Answer)]
    asked = [_asked(one) for one in corpus.splits[split].examples[: len(examples)]]
    # As long as the longest right answer, with what ends it; a prompt that leaves no room for it loses its beginning.
    context, decode = settings.model.context, corpus.tokenizer.decode
    longest = min(max(len(answer) for _, answer in asked), context // 2)
    prompts = [Prompt(decode(ids), ids[-(context - longest) :]) for ids, _ in asked]
    texts = [''] * len(examples)
    for update in model.write(prompts, options.make({'max_new_tokens': longest})):
        if update.done is not None:
            texts[update.number] = update.done.continuation
            line.note(f'answering, {update.number + 1}/{len(asked)}')
    return [
        Written(prompt.text, text, one.references) for prompt, text, one in zip(prompts, texts, examples, strict=True)
    ]


def _asked(example: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """(ids up to the last answer, that answer's)."""
    (one,) = example.stretches
    silent = np.nonzero(~one.learned)[0]
    begins = int(silent[-1]) + 1 if len(silent) else 0
    return one.ids[:begins], one.ids[begins:]


def _model(settings: Settings, corpus: TaskCorpus, params: Any) -> LanguageModel:
    model = inference.model_config(dict(vars(settings.model)), settings.model.vocab_size)
    end = corpus.tokenizer.end_of_document
    found = Pretrained(
        model, corpus.tokenizer, () if end is None else (end,), (), lambda shardings: _placed(params, shardings), ''
    )
    return LanguageModel(found, inference.home(model, data=1, fsdp=1), None, 'float32')


def _placed(params: Any, shardings: Any) -> Any:
    """The model's own part of the params: a task's head writes nothing."""
    own = {name: params[name] for name in shardings}
    return jax.tree.map(jax.device_put, own, shardings)


def scores(settings: Settings, written: Sequence[Written]) -> dict[str, float]:
    """By metric."""
    names = settings.task.metrics or USUAL
    answers, references = [one.answer for one in written], [list(one.references) for one in written]
    return {name: METRICS[name].function(answers, references) for name in names}
