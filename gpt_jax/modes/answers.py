"""How good are the answers that a model writes? A split's first ones, greedily, by the task's metrics."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax import files, inference, pretrained
from gpt_jax.assemble import Settings
from gpt_jax.data.encoded import Encoded
from gpt_jax.data.examples import Answer
from gpt_jax.data.task_corpus import TaskCorpus
from gpt_jax.errors import UserError
from gpt_jax.evaluate import code, metrics
from gpt_jax.generate import options
from gpt_jax.generate.batching import Prompt
from gpt_jax.language_model import LanguageModel
from gpt_jax.observe.progress import Progress
from gpt_jax.train import manifest

USUAL = ('exact_match', 'f1')
NAME = 'answers.jsonl'
TEMPERATURE = 0.8  # of the programs of which one is to pass, where there are several
Say = Callable[[str], None]


class Written(NamedTuple):
    """prompt, texts: what was asked and what was answered, the greedy answer first."""

    prompt: str
    texts: tuple[str, ...]
    example: Answer


def scores(
    settings: Settings, corpus: TaskCorpus, splits: Sequence[str], workdir: Path, say: Say, *, run_code: bool = False,
    weights: str = 'float32',
) -> dict[str, float]:  # fmt: skip
    """By split and metric, of the weights that lie in `workdir`; the answers themselves go to answers.jsonl there.

    Args:
      run_code: whether written programs may be run (pass@k).
      weights: how the model's matrices are kept.

    Raises:
      UserError: a metric that is not known, or whose library is not there.
    """
    wanted = settings.task.metrics or USUAL
    names = [name for name in wanted if run_code or not metrics.PASS_AT.fullmatch(name)]
    if len(names) < len(wanted):
        say(f'{settings.name}: {code.WARNING}')
    drawn = max((int(name.partition('@')[2]) for name in names if metrics.PASS_AT.fullmatch(name)), default=1)
    drawn_any = [name for name in names if metrics.PASS_AT.fullmatch(name)]
    found: dict[str, float] = {'answers_step': float(_step(workdir))}
    rows: list[dict[str, Any]] = []
    model = _model(settings, workdir, weights, say)
    for split in splits:
        line = Progress(sys.stderr, trial=None, name=f'{settings.name} {split}', steps=settings.task.written)
        written = write(settings, corpus, split, model, line, drawn if drawn > 1 else 0)
        line.close()
        if not written:
            say(f'{settings.name}: no {split} example has anything before its answer; none is written')
            continue
        tested = sum(bool(one.example.program) for one in written)
        if drawn_any and tested < len(written):
            say(f'{settings.name}: {tested} of {len(written)} {split} examples have a test; {drawn_any[0]} is of these')
        found |= {f'{split}_{name}': score(name, written, allowed=run_code) for name in names}
        rows += [
            {'split': split, 'prompt': one.prompt, 'answers': one.texts, 'references': one.example.references}
            for one in written
        ]
    files.write_text(workdir / NAME, ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))
    say(f'{workdir / NAME}: {len(rows)} answers')
    return found


def of_run(settings: Settings, corpus: TaskCorpus, workdir: Path, say: Say) -> dict[str, float]:
    """For the summary, of the validation split; nothing where several processes share the model."""
    if settings.task.kind != 'answer' or not settings.task.written:
        return {}
    if jax.process_count() > 1:
        if jax.process_index() == 0:
            say(f'{settings.name}: its answers are written and scored by one process: --mode=evaluate')
        return {}
    return scores(settings, corpus, ['validation'], workdir, say)


def _step(workdir: Path) -> int:
    """Of the checkpoint that the answers are of: the best, where it is kept."""
    meta = manifest.newest_meta(pretrained.chosen(workdir, None) / 'checkpoints')
    return 0 if meta is None else int(meta['next_batch'])


def _model(settings: Settings, workdir: Path, weights: str, say: Say) -> LanguageModel:
    found = pretrained.find(str(workdir), say=say)
    count, mesh = jax.device_count(), settings.mesh
    spread = mesh.tensor == 1 and mesh.pipeline == 1 and found.model.experts == 0 and count > 1
    axes = {'data': 1 if mesh.strategy == 'fsdp' else count, 'fsdp': count if mesh.strategy == 'fsdp' else 1}
    home = inference.home(found.model, **axes) if spread else inference.home(found.model, data=1, fsdp=1)
    return LanguageModel(found, home, None, weights)


def write(
    settings: Settings, corpus: TaskCorpus, split: str, model: LanguageModel, line: Progress, drawn: int = 0
) -> list[Written]:
    """What the model answers to the first `task.written` examples of a split; of a dialogue, its last answer.

    Args:
      drawn: answers of each beside the likeliest one, at random.
    """
    both = zip(corpus.examples[split][: settings.task.written], corpus.splits[split].examples, strict=False)
    pairs = [(one, _asked(ids)) for one, ids in both if isinstance(one, Answer)]
    pairs = [(one, ids) for one, ids in pairs if len(ids[0])]  # what nothing stands before cannot be gone on with
    if not pairs:
        return []
    examples, asked = [one for one, _ in pairs], [ids for _, ids in pairs]
    # As long as the longest right answer, with what ends it; a prompt that leaves no room for it loses its beginning.
    context, decode = settings.model.context, corpus.tokenizer.decode
    longest = min(max(len(answer) for _, answer in asked), context // 2)
    prompts = [Prompt(decode(ids), ids[-(context - longest) :]) for ids, _ in asked]
    ways: list[dict[str, Any]] = [{}]
    if drawn:
        ways.append({'num_return_sequences': drawn, 'temperature': TEMPERATURE, 'seed': settings.seed})
    each = [continued(model, prompts, {'max_new_tokens': longest} | way, line) for way in ways]
    texts = [[text for several in each for text in several[number]] for number in range(len(examples))]
    tails = [_tail(one) for one in examples]
    return [
        Written(prompt.text, tuple(_without(text, tail) for text in several), one)
        for prompt, several, one, tail in zip(prompts, texts, examples, tails, strict=True)
    ]


def continued(model: LanguageModel, prompts: list[Prompt], given: dict[str, Any], line: Progress) -> list[list[str]]:
    """What the model goes on with, one or several texts for each prompt.

    Args:
      given: options of generation.
    """
    done: dict[int, str] = {}
    per = given.get('num_return_sequences', 1)
    for update in model.write(prompts, options.make(given)):
        if update.done is not None:
            done[update.number] = update.done.continuation
            line.note(f'answering, {len(done)}/{len(prompts) * per}')
    return [[done[number * per + n] for n in range(per)] for number in range(len(prompts))]


def _asked(example: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """(ids up to the last answer, that answer's)."""
    (one,) = example.stretches
    silent = np.nonzero(~one.learned)[0]
    begins = int(silent[-1]) + 1 if len(silent) else 0
    return one.ids[:begins], one.ids[begins:]


def _tail(example: Answer) -> str:
    """What a chat template puts behind an answer, '<|im_end|>' say."""
    last, right = example.parts[-1][0], example.references[0].strip()
    return last[last.index(right) + len(right) :].strip() if right in last else ''


def _without(text: str, tail: str) -> str:
    return text.partition(tail)[0] if tail else text


def score(name: str, written: Sequence[Written], *, allowed: bool) -> float:
    if not metrics.PASS_AT.fullmatch(name):
        return metrics.METRICS[name].function(
            [one.texts[0] for one in written], [list(one.example.references) for one in written]
        )
    passed = []
    written = [one for one in written if one.example.program]
    if not written:
        raise UserError(f'config.task.metrics: {name}: none of these examples has a test')
    tried = [one.texts[1:] or one.texts for one in written]
    programs = [
        code.body(text).join(one.example.program) for one, texts in zip(written, tried, strict=True) for text in texts
    ]
    outcomes = iter(code.run(programs, allowed=allowed))
    for texts in tried:
        passed.append([next(outcomes).passed for _ in texts])
    return code.pass_at(int(name.partition('@')[2]), passed)
