"""What is a run trained and scored on? Text, or a task's examples; what differs between the two stands here alone."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax import assemble, files
from gpt_jax.assemble import Program, Settings
from gpt_jax.data import chat, task_corpus, task_set, tokenizer
from gpt_jax.data.pipeline import batches, repeats, shuffled
from gpt_jax.data.prepare import Corpus, prepare
from gpt_jax.data.task_corpus import TaskCorpus
from gpt_jax.data.tokenizer import Tokenizer
from gpt_jax.data.tokens import TOKENIZER
from gpt_jax.errors import UserError
from gpt_jax.evaluate.perplexity import bits_per_byte
from gpt_jax.finetune.head import HEADED
from gpt_jax.modes import contaminated, task_scores, text_scores, training_text
from gpt_jax.observe.progress import Progress

Say = Callable[[str], None]
Material = Corpus | TaskCorpus


def material(config: dict[str, Any], say: Say) -> Material:
    """What the config names, tokenized.

    Raises:
      UserError: bad input.
    """
    task = assemble.task_config(config)
    if task.kind == 'none':
        return prepare(assemble.data_config(config), say)
    data = assemble.data_config(config)
    spec = data.tokenizer
    how = chat.load(tokenizer.folder(spec))
    found = task_set.load(task, data.cache, how, say)
    pairs = {split: list(found.pairs(split)) for split in found.counts}
    examples = {split: [example for _, example in some] for split, some in pairs.items()}
    made = tokenizer.make(spec, lambda: task_corpus.texts(examples['train']))
    corpus = task_corpus.make(task, examples, made, config['model']['context'], say)
    asked = {split: [contaminated.texts(task, row) for row, _ in some] for split, some in pairs.items()}
    return dataclasses.replace(corpus, asked=asked)


def source(settings: Settings) -> str:
    """The config's field that names the data, and what it says."""
    if settings.task.kind == 'none':
        return f'data.source: {settings.data.source}'
    return f'task.source: {settings.task.source}'


def text_only(config: dict[str, Any], mode: str) -> None:
    """Raises UserError for a mode that knows no tasks."""
    if config['task']['kind'] != 'none':
        raise UserError(f'--mode={mode}: reads plain text; leave config.task.kind at none')


def tokenizer_of(corpus: Material) -> Tokenizer:
    return corpus.tokenizer if isinstance(corpus, TaskCorpus) else corpus.tokenizer()


def keep_tokenizer(settings: Settings, corpus: Material, folder: Path) -> None:
    """Writes the tokenizer into a run's folder, and the chat template that it carries; the folder needs no other."""
    made = corpus.tokenizer.content if isinstance(corpus, TaskCorpus) else (corpus.path / TOKENIZER).read_bytes()
    files.write_bytes(folder / TOKENIZER, made)
    for name, content in chat.carried(tokenizer.folder(settings.data.tokenizer)).items():
        files.write_bytes(folder / name, content)


def batches_of(settings: Settings, corpus: Material, start: int, share: tuple[int, int]) -> Iterator[Any]:
    """This process's `share` (index, of how many) of the rows of the run's batches from number `start` on."""
    which: dict[str, Any] = {
        'fingerprint': corpus.fingerprint, 'batch': settings.train.batch, 'seed': settings.seed, 'start': start,
        'process_index': share[0], 'process_count': share[1],
    }  # fmt: skip
    if isinstance(corpus, TaskCorpus):
        return shuffled(len(corpus.train), corpus.train.take, **which)
    return batches(corpus.train, context=settings.model.context, packing=settings.data.packing, **which)


class Epochs(NamedTuple):
    """How often training reads what there is. unit: of `unique`."""

    times: float
    unique: int
    unit: str


def epochs(settings: Settings, corpus: Material) -> Epochs:
    if isinstance(corpus, TaskCorpus):
        rows = settings.steps * settings.train.batch
        return Epochs(rows / len(corpus.train), len(corpus.train.examples), 'examples')
    wanted = settings.steps * settings.tokens_per_step
    return Epochs(repeats(corpus.train, wanted), len(corpus.train), 'tokens')


def units(corpus: Material, loss: float) -> dict[str, float]:
    """A training loss in a unit that does not depend on the tokenizer, where it is one of text."""
    return (
        {} if isinstance(corpus, TaskCorpus) else {'bits_per_byte': bits_per_byte(loss, corpus.train.bytes_per_token)}
    )


def held_out(corpus: Material) -> list[str]:
    """The splits that a model is scored on."""
    there = corpus.splits if isinstance(corpus, TaskCorpus) else {'validation': corpus.validation, 'test': corpus.test}
    return [split for split in ('validation', 'test') if there.get(split) is not None]


def scores(
    settings: Settings, program: Program, corpus: Material, split: str, params: Any, line: Progress
) -> dict[str, float]:
    """'loss' in nats per target or question, and what else is known of a split."""
    if isinstance(corpus, TaskCorpus):
        return task_scores.scores(settings, program, corpus, split, params, line)
    tokens = corpus.test if split == 'test' else corpus.validation
    assert tokens is not None  # of held_out
    return text_scores.scores(settings, program, tokens, params, line)


def validation(settings: Settings, program: Program, corpus: Material, params: Any, line: Progress) -> dict[str, float]:
    """The validation split's scores, as a run's records name them."""
    found = scores(settings, program, corpus, 'validation', params, line)
    return {f'validation_{name}': value for name, value in found.items()}


class Judge(NamedTuple):
    """By which of the validation's scores a checkpoint is the best, and whether more is better."""

    name: str
    higher: bool

    def better(self, one: float, other: float | None) -> bool:
        return other is None or (one > other if self.higher else one < other)


def judge(settings: Settings) -> Judge:
    """A decided task by its first metric, or accuracy; the rest by loss."""
    kind, metrics = settings.task.kind, settings.task.metrics
    if kind in HEADED:
        return Judge(f'validation_{metrics[0] if metrics else "accuracy"}', higher=True)
    return Judge('validation_accuracy', higher=True) if kind == 'prefer' else Judge('validation_loss', higher=False)


def contamination(
    settings: Settings, corpus: Material, splits: Sequence[str], line: Progress, say: Say
) -> dict[str, float]:
    """The share of these splits' examples whose texts stand in what the model was trained on before, where that
    is known ('..._contaminated'), and among the examples that it is tuned on ('..._repeated')."""
    if not isinstance(corpus, TaskCorpus):
        return {}
    read = training_text.of_run(settings.task.kind, settings.data, settings.init_from)
    found: dict[str, float] = {}
    for split in splits:
        asked, words = corpus.asked[split], settings.suite.overlap
        before = contaminated.look(asked, read, words, line, say)
        own = contaminated.among(asked, corpus.asked['train'], words)
        said = {'contaminated': before, 'repeated': own}
        found |= {f'{split}_examples_{name}': float(1 - one.clean().mean()) for name, one in said.items() if one}
    return found


def counts(corpus: Material) -> dict[str, Any]:
    """What the summary says of the data."""
    if isinstance(corpus, TaskCorpus):
        sizes = {f'{split}_examples': len(rows.examples) for split, rows in corpus.splits.items()}
        cut = {f'{split}_examples_cut': count for split, count in corpus.cut().items()}
        return {'unique_tokens': corpus.train.learned, **sizes, **cut}
    return {'bytes_per_token': corpus.validation.bytes_per_token, 'unique_tokens': len(corpus.train)}
