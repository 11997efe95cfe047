"""Generated answers to a task's examples, greedy and sampled, and their metrics."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax.core import files
from gpt_jax.core.config import Config
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.evaluation import code_execution
from gpt_jax.inference import options as generation_options
from gpt_jax.inference import placement, pretrained
from gpt_jax.inference.batching import TokenizedPrompt
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.tasks.encoding import EncodedExample
from gpt_jax.tasks.examples import CompletionExample
from gpt_jax.tasks.task_dataset import TaskDataset
from gpt_jax.tasks.task_metrics import COMPLETION_METRICS, PASS_AT
from gpt_jax.train import manifest
from gpt_jax.train.manifest import select_checkpoint_folder

DEFAULT_METRICS = ('exact_match', 'f1')
ANSWERS_FILE = 'answers.jsonl'
SAMPLING_TEMPERATURE = 0.8  # of the samples for pass@k


class GeneratedAnswer(NamedTuple):
    """Answers to one example.

    prompt: text given to the model. texts: its answers, the greedy one first.
    """

    prompt: str
    texts: tuple[str, ...]
    example: CompletionExample


def score_answers(
    config: Config,
    dataset: TaskDataset,
    splits: Sequence[str],
    workdir: Path,
    log: LogFn,
    *,
    run_code: bool = False,
    weight_dtype: str = 'float32',
) -> dict[str, float]:
    """Generate and score answers with the weights in `workdir`; write them to answers.jsonl there.

    Args:
      run_code: whether generated programs may run (pass@k).
      weight_dtype: dtype of the model's matrices.

    Returns:
      {'SPLIT_METRIC': value}, and 'answers_step', the step of the weights.

    Raises:
      UserError: an unknown metric, or a missing library.
    """
    metrics = select_metrics(config.task.metrics, run_code, config.name, log)
    pass_metrics = [name for name in metrics if PASS_AT.fullmatch(name)]
    scores: dict[str, float] = {'answers_step': float(_read_step(workdir))}
    rows: list[dict[str, Any]] = []
    model = _load_model(config, workdir, weight_dtype, log)
    for split in splits:
        name = f'{config.name} {split}'
        progress = Progress(sys.stderr, trial=None, name=name, steps=config.task.eval_generations)
        answers = _answer_split(config, dataset, split, model, count_samples(metrics), progress)
        progress.close()
        if not answers:
            log(f'{config.name}: no {split} example has text before its answer; none are scored')
            continue
        tested = sum(bool(answer.example.program) for answer in answers)
        if pass_metrics and tested < len(answers):
            log(
                f'{config.name}: {tested} of {len(answers)} {split} examples have a test; '
                f'{pass_metrics[0]} covers only these'
            )
        for metric in metrics:
            scores[f'{split}_{metric}'] = compute_metric(metric, answers, allowed=run_code)
        rows += [
            {
                'split': split,
                'prompt': answer.prompt,
                'answers': answer.texts,
                'references': answer.example.references,
            }
            for answer in answers
        ]
    path = workdir / ANSWERS_FILE
    files.write_text(path, ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))
    log(f'{path}: {len(rows)} answers')
    return scores


def score_validation_answers(
    config: Config, dataset: TaskDataset, workdir: Path, log: LogFn
) -> dict[str, float]:
    """Score the answers of the validation split for the summary.

    Returns:
      As `score_answers`; empty for other tasks than completion, if no answers are requested, and
      if several processes share the model.
    """
    if config.task.kind != 'completion' or not config.task.eval_generations:
        return {}
    if jax.process_count() > 1:
        if jax.process_index() == 0:
            log(
                f'{config.name}: answers are not scored here, which takes a single process; use '
                '--mode=evaluate'
            )
        return {}
    return score_answers(config, dataset, ['validation'], workdir, log)


def select_metrics(requested: Sequence[str], run_code: bool, name: str, log: LogFn) -> list[str]:
    """Return the metrics to compute; pass@k is skipped with a warning unless code may run.

    Args:
      requested: the task's metrics; (): DEFAULT_METRICS.
      name: name of the run or task, for the warning.
    """
    metrics = requested or DEFAULT_METRICS
    selected = [metric for metric in metrics if run_code or not PASS_AT.fullmatch(metric)]
    if len(selected) < len(metrics):
        log(f'{name}: {code_execution.RUN_CODE_WARNING}')
    return selected


def count_samples(metrics: Sequence[str]) -> int:
    """Return how many random samples per prompt pass@k needs; 0 for pass@1."""
    ks = (int(metric.partition('@')[2]) for metric in metrics if PASS_AT.fullmatch(metric))
    largest = max(ks, default=1)
    return largest if largest > 1 else 0


def _read_step(workdir: Path) -> int:
    """Return the step of the checkpoint whose answers are scored: the best one, if stored."""
    meta = manifest.read_newest_meta(select_checkpoint_folder(workdir, None) / 'checkpoints')
    return 0 if meta is None else int(meta['next_batch'])


def _load_model(config: Config, workdir: Path, weight_dtype: str, log: LogFn) -> LanguageModel:
    """Load the model of a run onto all devices.

    A model with experts, or whose mesh splits tensors or layers, is loaded onto a single device.
    """
    source = pretrained.find_pretrained(str(workdir), log=log)
    mesh, devices = config.mesh, jax.device_count()
    has_experts = source.model_config.experts > 0
    if mesh.tensor > 1 or mesh.pipeline > 1 or has_experts or devices == 1:
        axes = {'data': 1, 'fsdp': 1}
    elif mesh.strategy == 'fsdp':
        axes = {'data': 1, 'fsdp': devices}
    else:
        axes = {'data': devices, 'fsdp': 1}
    placed = placement.make_placement(source.model_config, **axes)
    return LanguageModel(source, placed, None, weight_dtype)


def _answer_split(
    config: Config,
    dataset: TaskDataset,
    split: str,
    model: LanguageModel,
    samples: int,
    progress: Progress,
) -> list[GeneratedAnswer]:
    """Answer the first `task.eval_generations` examples of a split; of a dialogue, its last turn.

    Examples without a prompt are skipped.
    """
    count = config.task.eval_generations
    examples: list[CompletionExample] = []
    encoded: list[tuple[np.ndarray, np.ndarray]] = []
    pairs = zip(dataset.examples[split][:count], dataset.splits[split].examples, strict=False)
    for example, encoded_example in pairs:
        if isinstance(example, CompletionExample):
            prompt, answer = _split_answer(encoded_example)
            if len(prompt):
                examples.append(example)
                encoded.append((prompt, answer))
    if not examples:
        return []
    # Room for the longest right answer and its end. A prompt that leaves too little room is
    # truncated on the left.
    context, decode = config.model.context, dataset.tokenizer.decode
    new_tokens = min(max(len(answer) for _, answer in encoded), context // 2)
    prompts = [TokenizedPrompt(decode(ids), ids[-(context - new_tokens) :]) for ids, _ in encoded]
    options = {'max_new_tokens': new_tokens}
    texts = generate_answers(model, prompts, options, samples, config.seed, progress)
    return [
        GeneratedAnswer(prompt.text, _cut_suffix(answers, _find_suffix(example)), example)
        for prompt, answers, example in zip(prompts, texts, examples, strict=True)
    ]


def generate_answers(
    model: LanguageModel,
    prompts: list[TokenizedPrompt],
    options: dict[str, Any],
    samples: int,
    seed: int,
    progress: Progress,
) -> list[tuple[str, ...]]:
    """Return the greedy answer to each prompt and `samples` random ones.

    Args:
      options: generation options.
      seed: seed of the random answers.
    """
    texts = generate_texts(model, prompts, options, progress)
    if samples:
        sampling = {
            'num_return_sequences': samples,
            'temperature': SAMPLING_TEMPERATURE,
            'seed': seed,
        }
        sampled = generate_texts(model, prompts, options | sampling, progress)
        texts = [greedy + others for greedy, others in zip(texts, sampled, strict=True)]
    return [tuple(answers) for answers in texts]


def generate_texts(
    model: LanguageModel,
    prompts: list[TokenizedPrompt],
    options: dict[str, Any],
    progress: Progress,
) -> list[list[str]]:
    """Return the continuations of each prompt: one, or `num_return_sequences`.

    Args:
      options: generation options.
    """
    per_prompt = options.get('num_return_sequences', 1)
    total = len(prompts) * per_prompt
    continuations: dict[int, str] = {}
    for chunk in model.stream_chunks(prompts, generation_options.make_options(options)):
        if chunk.result is not None:
            continuations[chunk.number] = chunk.result.continuation
            progress.note(f'generating, {len(continuations)}/{total}')
    return [
        [continuations[index * per_prompt + sample] for sample in range(per_prompt)]
        for index in range(len(prompts))
    ]


def _split_answer(example: EncodedExample) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids up to the last answer, ids of that answer)."""
    (segment,) = example.segments
    prompt_positions = np.nonzero(~segment.is_target)[0]
    start = int(prompt_positions[-1]) + 1 if len(prompt_positions) else 0
    return segment.ids[:start], segment.ids[start:]


def _find_suffix(example: CompletionExample) -> str:
    """Return what a chat template appends to an answer, such as '<|im_end|>'."""
    last, reference = example.parts[-1][0], example.references[0].strip()
    if reference not in last:
        return ''
    return last[last.index(reference) + len(reference) :].strip()


def _cut_suffix(texts: Sequence[str], suffix: str) -> tuple[str, ...]:
    return tuple(text.partition(suffix)[0] if suffix else text for text in texts)


def compute_metric(name: str, answers: Sequence[GeneratedAnswer], *, allowed: bool) -> float:
    """Compute one metric over all answers.

    Args:
      allowed: whether generated programs may run (pass@k).

    Raises:
      UserError: pass@k for examples without tests.
    """
    if not PASS_AT.fullmatch(name):
        greedy = [answer.texts[0] for answer in answers]
        references = [list(answer.example.references) for answer in answers]
        return COMPLETION_METRICS[name](greedy, references)
    tested = [answer for answer in answers if answer.example.program]
    if not tested:
        raise UserError(f'config.task.metrics: {name}: the examples have no tests')
    # The greedy answer only counts where there are no samples.
    candidates = [answer.texts[1:] or answer.texts for answer in tested]
    programs = [
        code_execution.extract_function_body(text).join(answer.example.program)
        for answer, texts in zip(tested, candidates, strict=True)
        for text in texts
    ]
    outcomes = iter(code_execution.run_programs(programs, allowed=allowed))
    passed = [[next(outcomes).passed for _ in texts] for texts in candidates]
    return code_execution.pass_at_k(int(name.partition('@')[2]), passed)
