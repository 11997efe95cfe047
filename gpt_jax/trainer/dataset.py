"""Interface of a run's data (batches, validation, counts), and its implementation for text.

`load_dataset` chooses the implementation: `TextData` for pre-training on text, or `TaskData`
(task_data.py) for a task's examples, which is imported only if the config has a task.
"""

import abc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import files
from gpt_jax.core.config import Config, DataConfig, RawConfig, parse_section
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.data.loader import count_epochs, iterate_batches, read_batch
from gpt_jax.data.target_bytes import TargetBytes
from gpt_jax.data.tokenized_dataset import TokenizedDataset, prepare_dataset
from gpt_jax.data.tokenizer import Tokenizer, find_added_tokens, tokenizer_folder
from gpt_jax.train.build import TrainerParts
from gpt_jax.trainer.validation import compute_bits_per_byte, evaluate_text

# Up to this many epochs, repeated text is worth almost as much as new text (Muennighoff et al.
# 2023, section 5).
MAX_USEFUL_EPOCHS = 4
VALIDATION_PREFIX = 'validation_'  # of the metrics of the validation split


class Epochs(NamedTuple):
    """Passes of a run over its training data.

    times: number of passes.
    unique: size of the training data, in `unit`.
    unit: 'tokens' or 'examples'.
    """

    times: float
    unique: int
    unit: str


class BestMetric(NamedTuple):
    """The validation metric that selects the best checkpoint."""

    name: str
    higher_is_better: bool

    def is_better(self, value: float, best: float | None) -> bool:
        if best is None:
            return True
        return value > best if self.higher_is_better else value < best


class Dataset(abc.ABC):
    """Tokenized training data and its held-out splits.

    Attributes:
      vocab_size: exceeds every token id.
      fingerprint: 64 hex digits; a hash of the token ids, the document starts and the tokenizer.
    """

    vocab_size: int
    fingerprint: str

    @property
    @abc.abstractmethod
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the token ids."""

    @property
    @abc.abstractmethod
    def eval_splits(self) -> list[str]:
        """The held-out splits: 'validation' and, where the source has one, 'test'."""

    @abc.abstractmethod
    def list_tokenizer_files(self) -> dict[str, bytes]:
        """Return the contents of the tokenizer's files, by name."""

    @abc.abstractmethod
    def describe_source(self, config: Config) -> str:
        """Return the config field that names the data, with its value."""

    @abc.abstractmethod
    def iterate_batches(
        self, config: Config, start: int, shard: tuple[int, int]
    ) -> Iterator[dict[str, Any]]:
        """Iterate without end over one process's rows of the run's global batches.

        Args:
          start: number of the first batch, from 0.
          shard: (index, count) of this process's share of the rows.

        Raises:
          UserError: the data does not fill one row.
        """

    @abc.abstractmethod
    def count_epochs(self, config: Config) -> Epochs:
        """Count the passes over the training data in the whole run."""

    @abc.abstractmethod
    def evaluate(
        self, config: Config, parts: TrainerParts, split: str, params: Any, progress: Progress
    ) -> dict[str, float]:
        """Return 'loss' in nats per target or question, and the other metrics of a split."""

    @abc.abstractmethod
    def count_examples(self, config: Config) -> dict[str, Any]:
        """Return the sizes that the summary reports."""

    def validate(
        self, config: Config, parts: TrainerParts, params: Any, progress: Progress
    ) -> dict[str, float]:
        """Evaluate the validation split; the names begin with 'validation_'."""
        metrics = self.evaluate(config, parts, 'validation', params, progress)
        return {f'{VALIDATION_PREFIX}{name}': value for name, value in metrics.items()}

    def save_tokenizer(self, config: Config, folder: Path) -> None:
        """Write the tokenizer and its chat template, so that the folder is self-contained."""
        for name, content in self.list_tokenizer_files().items():
            files.write_bytes(folder / name, content)
        source = tokenizer_folder(config.data.tokenizer)
        if source is None:
            return
        from gpt_jax.tasks import chat_template

        for name, content in chat_template.read_template_files(source).items():
            files.write_bytes(folder / name, content)

    # Optional features; by default, these methods do nothing.

    def convert_loss(self, config: Config, step: int, loss: float) -> dict[str, float]:
        """Return the training loss of a step in units that do not depend on the tokenizer."""
        del config, step, loss
        return {}

    def best_metric(self, config: Config) -> BestMetric:
        """Return the validation metric that selects the best checkpoint."""
        del config
        return BestMetric('validation_loss', higher_is_better=False)

    def measure_contamination(
        self, config: Config, splits: Sequence[str], progress: Progress, log: LogFn
    ) -> dict[str, float]:
        """Return the share of held-out examples that also occur in the training data."""
        del config, splits, progress, log
        return {}

    def add_references(
        self,
        config: Config,
        parts: TrainerParts,
        workdir: Path,
        start: int,
        progress: Progress,
        log: LogFn,
    ) -> 'Dataset':
        """Return the data; for preferences, with the initial model's log probabilities added.

        Args:
          start: number of updates in the initial state.
        """
        del config, parts, workdir, start, progress, log
        return self

    def score_generations(self, config: Config, workdir: Path, log: LogFn) -> dict[str, float]:
        """Return the metrics of generated validation answers."""
        del config, workdir, log
        return {}


class TextData(Dataset):
    """Plain text: a stream of tokens for each split.

    Args:
      tokens: the tokens.
      data_config: the data section that they were made from.
      vocab_size: exceeds every id of the tokens.
      log: receives lines for the user.
    """

    def __init__(
        self, tokens: TokenizedDataset, data_config: DataConfig, vocab_size: int, log: LogFn
    ):
        self.tokens = tokens
        self._target_bytes = TargetBytes(tokens, data_config, log)
        self.vocab_size, self.fingerprint = vocab_size, tokens.fingerprint

    @property
    def tokenizer(self) -> Tokenizer:
        return self.tokens.load_tokenizer()

    @property
    def eval_splits(self) -> list[str]:
        return ['validation'] if self.tokens.test is None else ['validation', 'test']

    def list_tokenizer_files(self) -> dict[str, bytes]:
        return self.tokenizer.files

    def describe_source(self, config: Config) -> str:
        return f'data.source: {config.data.source}'

    def iterate_batches(
        self, config: Config, start: int, shard: tuple[int, int]
    ) -> Iterator[dict[str, Any]]:
        return iterate_batches(
            self.tokens.train,
            **self._batch_order(config),
            start=start,
            shard_index=shard[0],
            shard_count=shard[1],
        )

    def _batch_order(self, config: Config) -> dict[str, Any]:
        """Return what determines batch k, as arguments of the loader."""
        return {
            'fingerprint': self.fingerprint,
            'context': config.model.context,
            'batch_size': config.train.batch_size,
            'seed': config.seed,
            'packing': config.data.packing,
        }

    def count_epochs(self, config: Config) -> Epochs:
        targets = config.steps * config.tokens_per_step
        return Epochs(count_epochs(self.tokens.train, targets), len(self.tokens.train), 'tokens')

    def evaluate(
        self, config: Config, parts: TrainerParts, split: str, params: Any, progress: Progress
    ) -> dict[str, float]:
        tokens = self.tokens.test if split == 'test' else self.tokens.validation
        assert tokens is not None  # `eval_splits` names only splits that exist
        bytes_per_token = self._target_bytes.average_split(
            split,
            context=config.model.context,
            max_tokens=config.train.eval_tokens,
            note=lambda: progress.note('counting the bytes of the text'),
        )
        loss = evaluate_text(config, parts, tokens, params, progress)
        return {'loss': loss} | compute_bits_per_byte(loss, bytes_per_token)

    def count_examples(self, config: Config) -> dict[str, Any]:
        return {
            'bytes_per_token': self._target_bytes.average_split(
                'validation',
                context=config.model.context,
                max_tokens=config.train.eval_tokens,
                note=lambda: None,
            ),
            'unique_tokens': len(self.tokens.train),
        }

    def convert_loss(self, config: Config, step: int, loss: float) -> dict[str, float]:
        batch = read_batch(self.tokens.train, step - 1, **self._batch_order(config))
        return compute_bits_per_byte(loss, self._target_bytes.average_batch(batch))


def load_dataset(raw_config: RawConfig, log: LogFn) -> Dataset:
    """Read and tokenize the data that a config names, or open it from the cache.

    Raises:
      UserError: bad input.
    """
    if parse_section(raw_config, 'task').kind == 'none':
        return load_text_data(raw_config, log)
    from gpt_jax.trainer.task_data import load_task_data

    return load_task_data(raw_config, log)


def load_text_data(raw_config: RawConfig, log: LogFn) -> TextData:
    """Read and tokenize the text that a config names, or open it from the cache."""
    data_config = parse_section(raw_config, 'data')
    tokens = prepare_dataset(data_config, log)
    vocab_size = _find_vocab_size(tokens, raw_config['model']['vocab_size'])
    return TextData(tokens, data_config, vocab_size, log)


def _find_vocab_size(tokens: TokenizedDataset, configured: Any) -> int:
    """Return the tokenizer's vocabulary size, or the model's if it lacks only unused tokens.

    Raises:
      UserError: the model lacks an added token that the text contains.
    """
    if not isinstance(configured, int) or not 0 < configured < tokens.vocab_size:
        return tokens.vocab_size
    names = find_added_tokens(tokens.load_tokenizer(), configured)
    if names is None:
        return tokens.vocab_size  # more than the model's, which is an error
    splits = (tokens.train, tokens.validation, tokens.test)
    largest = max(int(split.ids.max()) for split in splits if split is not None)
    if largest >= configured:
        raise UserError(
            f'data.source: its tokens contain the id {largest}, but the model has only '
            f'{configured} ids and lacks {", ".join(names[:3])}; remove these from the text or the '
            'tokenizer, or train a model with config.model.vocab_size=0'
        )
    return configured


def require_text(raw_config: RawConfig, mode: str) -> None:
    """Raise UserError if the config has a task, for a mode that supports plain text only."""
    kind = raw_config['task']['kind']
    if kind != 'none':
        raise UserError(f'--mode={mode}: task.kind must be none, got {kind}; this mode reads text')


def warn_of_repetition(dataset: Dataset, config: Config, log: LogFn) -> None:
    """Log a warning if the run repeats its training data more often than is useful."""
    epochs = dataset.count_epochs(config)
    if epochs.times > MAX_USEFUL_EPOCHS:
        log(
            f'warning: {config.steps:,} steps repeat {epochs.unique:,} {epochs.unit} of '
            f'{dataset.describe_source(config)} {epochs.times:.1f} times; beyond '
            f'{MAX_USEFUL_EPOCHS} times, repeated text is worth much less than new text'
        )
