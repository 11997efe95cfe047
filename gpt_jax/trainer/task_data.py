"""Task examples as the trainer uses them, with the reference model's scores of preferences.

Direct preference optimization (Rafailov et al. 2023) compares the model in training to the model
that training began with. The log probabilities of the latter are computed once, before the first
step, and are read back from the run's folder after a restart.
"""

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax.core import files
from gpt_jax.core.config import Config, RawConfig, parse_section
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.data import tokenizer as tokenizers
from gpt_jax.data.loader import iterate_shuffled
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.evaluation import contamination, generated_answers
from gpt_jax.finetune.heads import HEAD_TASKS
from gpt_jax.tasks import chat_template, task_dataset, task_metrics
from gpt_jax.tasks.encoding import PackedExamples
from gpt_jax.tasks.task_dataset import TaskDataset
from gpt_jax.train.build import TrainerParts
from gpt_jax.trainer import init_from, task_validation
from gpt_jax.trainer.dataset import BestMetric, Dataset, Epochs

REFERENCES_FILE = 'references.npz'
Splits = Mapping[str, PackedExamples]


def load_task_data(raw_config: RawConfig, log: LogFn) -> 'TaskData':
    """Read, encode and pack the examples of the config's task.

    Raises:
      UserError: bad input, an unknown metric, or one whose library is not installed.
    """
    task, data = parse_section(raw_config, 'task'), parse_section(raw_config, 'data')
    task_metrics.check_metrics(task.metrics, task.kind)
    task_metrics.require_libraries(task.metrics, task.kind)
    template = chat_template.load_chat_template(tokenizers.tokenizer_folder(data.tokenizer))
    source = task_dataset.load_examples(task, data.cache, template, log)
    pairs = {split: list(source.pairs(split)) for split in source.counts}
    examples = {split: [example for _, example in pairs[split]] for split in pairs}
    tokenizer = tokenizers.make_tokenizer(
        data.tokenizer, lambda: task_dataset.collect_texts(examples['train'])
    )
    context = raw_config['model']['context']
    dataset = task_dataset.make_task_dataset(task, examples, tokenizer, context, log)
    questions = {
        split: [contamination.question_texts(task, row) for row, _ in pairs[split]]
        for split in pairs
    }
    return TaskData(dataclasses.replace(dataset, question_texts=questions))


class TaskData(Dataset):
    """The examples of a task, packed into rows."""

    def __init__(self, examples: TaskDataset):
        self.examples = examples
        self.vocab_size, self.fingerprint = examples.vocab_size, examples.fingerprint

    @property
    def tokenizer(self) -> Tokenizer:
        return self.examples.tokenizer

    @property
    def eval_splits(self) -> list[str]:
        return [split for split in ('validation', 'test') if split in self.examples.splits]

    def list_tokenizer_files(self) -> dict[str, bytes]:
        return self.examples.tokenizer.files

    def describe_source(self, config: Config) -> str:
        return f'task.source: {config.task.source}'

    def iterate_batches(
        self, config: Config, start: int, shard: tuple[int, int]
    ) -> Iterator[dict[str, Any]]:
        rows = self.examples.train
        return iterate_shuffled(
            len(rows),
            rows.make_batch,
            fingerprint=self.fingerprint,
            batch_size=config.train.batch_size,
            seed=config.seed,
            start=start,
            shard_index=shard[0],
            shard_count=shard[1],
        )

    def count_epochs(self, config: Config) -> Epochs:
        rows = self.examples.train
        read = config.steps * config.train.batch_size
        return Epochs(read / len(rows), len(rows.examples), 'examples')

    def evaluate(
        self, config: Config, parts: TrainerParts, split: str, params: Any, progress: Progress
    ) -> dict[str, float]:
        return task_validation.evaluate_task(config, parts, self.examples, split, params, progress)

    def count_examples(self, config: Config) -> dict[str, Any]:
        del config
        splits = self.examples.splits
        sizes = {f'{split}_examples': len(rows.examples) for split, rows in splits.items()}
        cut = {
            f'{split}_examples_cut': count
            for split, count in self.examples.count_truncated().items()
        }
        return {'unique_tokens': self.examples.train.num_targets, **sizes, **cut}

    def best_metric(self, config: Config) -> BestMetric:
        """Return a head's first metric or accuracy, accuracy for preferences, else the loss."""
        kind, metrics = config.task.kind, config.task.metrics
        if kind in HEAD_TASKS and metrics:
            return BestMetric(f'validation_{metrics[0]}', higher_is_better=True)
        if kind in HEAD_TASKS or kind == 'preference':
            return BestMetric('validation_accuracy', higher_is_better=True)
        return super().best_metric(config)

    def measure_contamination(
        self, config: Config, splits: Sequence[str], progress: Progress, log: LogFn
    ) -> dict[str, float]:
        """Return the contaminated and the repeated share of each split's examples.

        '..._contaminated': their texts occur in the text that the model was pre-trained on, where
        that text is known. '..._repeated': they occur among the training examples.
        """
        ngram = config.suite.contamination_ngram
        pretraining = contamination.find_training_data(
            config.task.kind, config.data, config.init_from
        )
        train = self.examples.question_texts['train']
        shares: dict[str, float] = {}
        for split in splits:
            questions = self.examples.question_texts[split]
            overlaps = {
                'contaminated': contamination.find_contamination(
                    questions, pretraining, ngram, progress, log
                ),
                'repeated': contamination.find_contamination_in_examples(questions, train, ngram),
            }
            for name, overlap in overlaps.items():
                if overlap:
                    share = float(1 - overlap.clean_mask().mean())
                    shares[f'{split}_examples_{name}'] = share
        return shares

    def add_references(
        self,
        config: Config,
        parts: TrainerParts,
        workdir: Path,
        start: int,
        progress: Progress,
        log: LogFn,
    ) -> 'TaskData':
        if config.task.kind != 'preference':
            return self
        path = workdir / REFERENCES_FILE
        splits = self.examples.splits
        # A file left by a run without a checkpoint may have the scores of another model.
        if start > 0 and path.exists():
            splits = _read_references(path, splits)
        else:
            log(f'{config.name}: scoring the preferences with the initial model')
            params = _make_initial_params(config, parts, log)
            splits = {
                split: task_validation.add_reference_log_probs(
                    config, parts, rows, params, progress
                )
                for split, rows in splits.items()
            }
            if jax.process_index() == 0:
                _write_references(path, splits)
        return TaskData(dataclasses.replace(self.examples, splits=splits))

    def score_generations(self, config: Config, workdir: Path, log: LogFn) -> dict[str, float]:
        return generated_answers.score_validation_answers(config, self.examples, workdir, log)


def _make_initial_params(config: Config, parts: TrainerParts, log: LogFn) -> Any:
    """Make the params that training begins with."""
    if not config.init_from:
        return parts.combine_params(parts.init_state())
    pretrained = init_from.load_pretrained_params(config, parts, log)
    return parts.combine_params(parts.make_state(pretrained))


def _write_references(path: Path, splits: Splits) -> None:
    flat = {
        split: np.concatenate(
            [log_p_L for part in rows.reference_log_probs or () for log_p_L in part]
        )
        for split, rows in splits.items()
    }
    content = io.BytesIO()
    np.savez(content, **flat)  # type: ignore[arg-type]  # the stubs take the names for flags
    files.write_bytes(path, content.getvalue())


def _read_references(path: Path, splits: Splits) -> Splits:
    with np.load(path) as flat:
        return {
            split: dataclasses.replace(
                rows, reference_log_probs=_split_log_probs(flat[split], rows)
            )
            for split, rows in splits.items()
        }


def _split_log_probs(flat: np.ndarray, rows: PackedExamples) -> list[list[np.ndarray]]:
    """Split an array of the file into the segments of each example."""
    lengths = [segment.num_inputs for example in rows.examples for segment in example.segments]
    pieces = iter(np.split(flat, np.cumsum(lengths)[:-1]))
    return [[next(pieces) for _ in example.segments] for example in rows.examples]
