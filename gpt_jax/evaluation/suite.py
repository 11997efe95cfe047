"""Evaluation suite of a trained model: zero- and few-shot tasks, and reports."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.config import REPORTS_ON_TEXT, SuiteConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.evaluation import contamination, generated_answers, suite_tasks
from gpt_jax.evaluation.contamination import Contamination
from gpt_jax.evaluation.generated_answers import GeneratedAnswer
from gpt_jax.evaluation.suite_reports import REPORTS, EvalContext
from gpt_jax.evaluation.suite_tasks import EvalRequest, QuestionResult
from gpt_jax.inference import language_model
from gpt_jax.inference.batching import TokenizedPrompt
from gpt_jax.tasks.examples import CompletionExample
from gpt_jax.tasks.few_shot import SEPARATOR
from gpt_jax.train import manifest
from gpt_jax.train.manifest import select_checkpoint_folder

CLEAN_SCORES = ('accuracy', 'exact', 'bits_per_byte', 'loss', 'ece')
UNKNOWN_TRAINING_TEXT = "the model's training text is unknown; name it with --corpus"


class EvalMode(NamedTuple):
    """How a model is evaluated.

    Attributes:
      corpus: source of the model's training text, given by the user; '': the source of its run.
      stride: tokens between the windows of a long text; None: the context.
      weight_dtype, devices: dtype and mesh axes of the weights.
      run_code: whether generated programs may run.
      explicit: whether the user named the tasks and reports.
    """

    corpus: str
    stride: int | None
    weight_dtype: str
    devices: dict[str, int]
    run_code: bool
    explicit: bool


def run_suite(
    checkpoint: str, suite_config: SuiteConfig, mode: EvalMode, log: LogFn
) -> dict[str, Any]:
    """Evaluate a model on all tasks and reports.

    Returns:
      The results by task and report, as JSON types.

    Raises:
      UserError: no such model, task or file.
    """
    names = dict.fromkeys(suite_config.tasks)
    reports = [name for name in names if name.partition(':')[0] in REPORTS]
    task_names = [name for name in suite_config.tasks if name not in reports]
    for name in task_names:
        suite_tasks.find_task(name)  # report errors before the model is loaded
    folder = select_checkpoint_folder(Path(checkpoint), None)
    if mode.corpus:
        training_data = [contamination.make_data_config(mode.corpus)]
    else:
        training_data = contamination.read_training_data(folder)
    model = language_model.load(
        checkpoint, draft=None, weight_dtype=mode.weight_dtype, log=log, **mode.devices
    )
    progress = Progress(sys.stderr, trial=None, name='suite', steps=len(suite_config.tasks))
    context = EvalContext(
        model=model,
        training_data=training_data[0] if training_data else None,
        max_examples=suite_config.max_examples or 1 << 30,
        seed=suite_config.seed,
        stride=mode.stride,
        progress=progress,
        log=log,
    )
    if context.training_data is None:
        for name in [name for name in reports if name in REPORTS_ON_TEXT]:
            if mode.explicit:
                context.find_text()  # raises
            log(f'{name}: skipped, since {UNKNOWN_TRAINING_TEXT}')
            reports.remove(name)
    requests = _load_tasks(task_names, suite_config, context)
    ngram = suite_config.contamination_ngram
    if requests and ngram and not training_data:
        log(f'contamination: not checked, since {UNKNOWN_TRAINING_TEXT}')
    # All of a corpus that the user gives is training text; of a run's source, only the train split.
    requests = suite_tasks.attach_contamination(
        requests, training_data, ngram, progress, log, all_splits=bool(mode.corpus)
    )
    results = {request.name: _score_task(request, context, mode.run_code) for request in requests}
    for name in reports:
        progress.note(name)
        word, _, source = name.partition(':')
        results[name] = REPORTS[word](context, source)
    progress.close()
    return {
        'checkpoint': checkpoint,
        'step': _read_step(folder),
        'weights': mode.weight_dtype,
        'num_fewshot': suite_config.num_fewshot,
        'seed': suite_config.seed,
        'examples': suite_config.max_examples,
        'tasks': results,
    }


def _read_step(folder: Path) -> int | None:
    checkpoints = folder / 'checkpoints'
    meta = manifest.read_newest_meta(checkpoints) if checkpoints.is_dir() else None
    return None if meta is None else meta['next_batch']


def _load_tasks(
    names: Sequence[str], suite_config: SuiteConfig, context: EvalContext
) -> list[EvalRequest]:
    """Load the questions of the tasks; a task whose answers never fit in the context is skipped."""
    model, data = context.model, context.training_data
    cache = data.cache if data else ''
    requests = []
    for name in names:
        request = suite_tasks.load_task(name, suite_config, cache, context.log)
        encode, size = model.tokenizer.encode_batch, model.config.context
        try:
            requests.append(suite_tasks.fit_context(request, encode, size, context.log))
        except UserError as error:
            if len(names) == 1:
                raise
            context.log(f'skipped: {error}')
    return requests


def _score_task(request: EvalRequest, context: EvalContext, run_code: bool) -> dict[str, Any]:
    context.progress.note(f'scoring {request.name}')
    results = suite_tasks.score_questions(request, context.model.score, blank=True)
    scores: dict[str, Any] = {
        'questions': len(results),
        'cut': request.truncated,
        **suite_tasks.summarize_scores(results),
    }
    if results[0].question.answer_index is None:
        scores |= _score_generated_answers(request, context, run_code)
    return scores | _report_contamination(results, request.contamination)


def _report_contamination(
    results: Sequence[QuestionResult], overlap: Contamination | None
) -> dict[str, Any]:
    """Report the overlap with the training text, and the scores of the other questions."""
    if overlap is None:
        return {'contamination': None}
    clean = list(itertools.compress(results, overlap.clean_mask()))
    scores = suite_tasks.summarize_scores(clean) if clean and len(clean) < len(results) else {}
    return {
        'contamination': contamination.report_contamination(overlap),
        **{f'clean_{name}': value for name, value in scores.items() if name in CLEAN_SCORES},
    }


def _score_generated_answers(
    request: EvalRequest, context: EvalContext, run_code: bool
) -> dict[str, Any]:
    """Generate answers and compute the metrics of the task."""
    model, max_size = context.model, context.model.config.context
    metrics = generated_answers.select_metrics(
        request.task.metrics, run_code, request.name, context.log
    )
    examples = [
        question.example
        for question in request.questions
        if isinstance(question.example, CompletionExample)
    ]
    references = [example.references[0] for example in examples]
    # Leave room for the longest reference and two more tokens.
    new_tokens = max(len(ids) for ids in model.tokenizer.encode_batch(references)) + 2
    new_tokens = min(new_tokens, max_size // 2)
    prompts = []
    for question in request.questions:
        ids = np.asarray(model.encode(question.context))[-(max_size - new_tokens) :]
        prompts.append(TokenizedPrompt(model.tokenizer.decode(ids), ids))
    options: dict[str, Any] = {'max_new_tokens': new_tokens}
    # A model that is not fine-tuned on the task does not end its answer but continues with another
    # example, which begins after a blank line.
    if not any(SEPARATOR in reference for reference in references):
        options['stop'] = (SEPARATOR,)
    samples = generated_answers.count_samples(metrics)
    texts = generated_answers.generate_answers(
        model, prompts, options, samples, context.seed, context.progress
    )
    answers = [
        GeneratedAnswer(prompt.text, answer_texts, example)
        for prompt, answer_texts, example in zip(prompts, texts, examples, strict=True)
    ]
    return {
        name: generated_answers.compute_metric(name, answers, allowed=run_code) for name in metrics
    }


TABLE_EXCLUDED = ('questions', 'contamination', 'chance', 'error')


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Format results as a table with one line per score and per number of a report."""
    rows = [('task', 'score', '', 'found in training')]
    for name, scores in results.items():
        if 'questions' in scores:
            rows += _make_task_rows(name, scores)
        else:
            rows += [(name, key, _format_value(value), '') for key, value in _flatten(scores)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    rows.insert(1, tuple('-' * width for width in widths))  # type: ignore[arg-type]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _make_task_rows(name: str, scores: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    report = scores['contamination']
    overlap = '-'
    if report is not None:
        overlap = f'{report["fraction_contaminated"]:.1%} of {report["examples"]}'
    keys = [key for key in scores if key not in TABLE_EXCLUDED and scores[key] != {}]
    rows = []
    for number, key in enumerate(keys):
        value = _format_value(scores[key])
        if key == 'accuracy':
            value += f' (chance {scores["chance"]:.3f})'
        rows.append((name, key, value, overlap) if number == 0 else ('', key, value, ''))
    return rows


def _flatten(values: dict[str, Any], prefix: str = '') -> list[tuple[str, Any]]:
    pairs = []
    for key, value in values.items():
        if isinstance(value, dict):
            pairs += _flatten(value, f'{prefix}{key} ')
        else:
            pairs.append((f'{prefix}{key}', value))
    return pairs


def _format_value(value: Any) -> str:
    if value is None:
        return '-'
    return f'{value:,}' if isinstance(value, int) else f'{value:.4g}'
