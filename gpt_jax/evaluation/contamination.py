"""Contamination of evaluation examples: n-gram overlap with the model's training text.

As for GPT-3 (Brown et al. 2020, appendix C): n-grams of 13 lower-case words without punctuation; a
shorter example is searched for as a whole. The corpus is read once and not stored: a 64-bit hash
of each n-gram of the examples is held in memory, and every n-gram of the corpus is looked up among
them. With 10^12 n-grams against 10^6 hashes, one corpus in twenty has a chance hit. Only the same
words in the same order match, not paraphrases; in a language without spaces, a whole sentence
counts as one word.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core import config_fields, files, template
from gpt_jax.core.config import DataConfig, TaskConfig, cache_folder, default_config
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.data import sources
from gpt_jax.tasks import chat_template
from gpt_jax.tasks.row_sources import Row
from gpt_jax.train import manifest
from gpt_jax.train.manifest import select_checkpoint_folder

DEFAULT_NGRAM = 13  # words
PROGRESS_INTERVAL = 1000  # documents between two progress notes
CACHE_FORMAT = 1  # version of the cached results
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no word is lost in the product modulo 2^64

QuestionTexts = tuple[str, ...]


class Contamination(NamedTuple):
    """Overlap of each example with a corpus, in the order of the examples.

    Attributes:
      share: float64 [E], share of the example's n-grams that occur in the corpus; 0 for an example
        without words.
      short: bool [E], whether it has fewer than n words and is searched for as a whole; a match of
        one or two words says little.
      ngram: the n-gram length n, in words.
      documents: number of documents read.
    """

    share: np.ndarray
    short: np.ndarray
    ngram: int
    documents: int

    def clean_mask(self, max_share: float = 0.0) -> np.ndarray:
        """Return which examples occur in the corpus by at most `max_share`. bool [E]."""
        return self.share <= max_share


def measure_overlap(
    examples: Sequence[str], documents: Iterable[str], ngram: int = DEFAULT_NGRAM
) -> Contamination:
    """Measure the share of each example's n-grams that occurs in the documents.

    Documents are read one at a time and not kept.

    Raises:
      ValueError: ngram is below 1.
    """
    if ngram < 1:
        raise ValueError(f'ngram: must be 1 or more, got {ngram}')
    words = [_hash_words(text) for text in examples]
    lengths = [min(len(hashes), ngram) for hashes in words]
    ngrams = [_hash_ngrams(hashes, length) for hashes, length in zip(words, lengths, strict=True)]
    ngrams_by_length: dict[int, list[np.ndarray]] = {}
    for length, hashes in zip(lengths, ngrams, strict=True):
        ngrams_by_length.setdefault(length, []).append(hashes)
    # For each n-gram length, the sorted hashes of the examples and whether each has occurred.
    targets = {
        length: np.unique(np.concatenate(hashes))
        for length, hashes in ngrams_by_length.items()
        if length
    }
    occurred = {length: np.zeros(len(hashes), bool) for length, hashes in targets.items()}
    count = 0
    for document in documents:
        count += 1
        document_words = _hash_words(document)
        for length, target in targets.items():
            if len(document_words) >= length:
                hashes = _hash_ngrams(document_words, length)
                index = np.minimum(np.searchsorted(target, hashes), len(target) - 1)
                occurred[length][index[target[index] == hashes]] = True
    share = [
        occurred[length][np.searchsorted(targets[length], hashes)].mean() if length else 0.0
        for length, hashes in zip(lengths, ngrams, strict=True)
    ]
    short = np.array([len(hashes) < ngram for hashes in words], bool)
    return Contamination(np.array(share, np.float64), short, ngram, count)


def _hash_words(text: str) -> np.ndarray:
    """Return a hash of each word. uint64 [L]."""
    words = re.sub(r'[^\w\s]|_', '', text.lower()).split()
    return np.fromiter((_hash_word(word) for word in words), np.uint64, len(words))


@functools.lru_cache(maxsize=1 << 20)
def _hash_word(word: str) -> int:
    digest = hashlib.blake2b(word.encode('utf-8', 'surrogatepass'), digest_size=8).digest()
    return int.from_bytes(digest, 'little')


def _hash_ngrams(hashes_L: np.ndarray, ngram: int) -> np.ndarray:
    """Return the polynomial hash of each n-gram, modulo 2^64. uint64 [L - n + 1]."""
    count = len(hashes_L) - ngram + 1
    total = np.zeros(count, np.uint64)
    for offset in range(ngram):
        total = total * np.uint64(_MULTIPLIER) + hashes_L[offset : offset + count]
    return total


def report_contamination(contamination: Contamination, max_share: float = 0.0) -> dict[str, Any]:
    """Summarize the overlap: counts of clean, contaminated and short examples, and mean share."""
    clean = contamination.clean_mask(max_share)
    total = len(clean)
    return {
        'words_in_a_run': contamination.ngram,
        'documents': contamination.documents,
        'examples': total,
        'clean': int(clean.sum()),
        'contaminated': int((~clean).sum()),
        'fraction_contaminated': float(np.mean(~clean)) if total else 0.0,
        'mean_share_found': float(np.mean(contamination.share)) if total else 0.0,
        'short': int(contamination.short.sum()),
        'short_contaminated': int((contamination.short & ~clean).sum()),
    }


def find_training_data(kind: str, data: DataConfig, init_from: str) -> list[DataConfig]:
    """Return the sources of a run's training text, its own first, then its base model's.

    Args:
      kind: task.kind; a task's examples do not count as training text.
      data: the run's data section.
      init_from: where the run starts from; '': random weights.

    Returns:
      The data sections; empty if no run records them.
    """
    texts = [data] if kind == 'none' else []
    if not init_from:
        return texts
    path = files.check_path(init_from, 'config.init_from')
    return texts + read_training_data(select_checkpoint_folder(path, None))


def read_training_data(folder: Path) -> list[DataConfig]:
    """Return the sources of the text that the run in `folder` was trained on.

    Returns:
      The data sections; empty if the folder is not a run, or if its weights were imported and not
      trained further.
    """
    if not (folder / 'checkpoints').is_dir():
        return []
    meta = manifest.read_newest_meta(folder / 'checkpoints')
    if meta is None or not meta['fingerprint']:
        return []
    raw_config = meta['config']
    raw_data = default_config()['data'] | raw_config['data']
    data = config_fields.from_dict(DataConfig, raw_data, 'data')
    kind = raw_config.get('task', {'kind': 'none'})['kind']
    return find_training_data(kind, data, raw_config.get('init_from', ''))


def make_data_config(source: str, cache: str = '') -> DataConfig:
    """Return the data section for a source, such as 'files:GLOB'.

    Raises:
      UserError: it is not a valid source.
    """
    raw_data = default_config()['data'] | {'source': source, 'cache': cache}
    return config_fields.from_dict(DataConfig, raw_data, 'data')


def iterate_documents(data: DataConfig, *splits: str) -> Iterator[str]:
    """Yield the texts of the given splits, or of all splits if none are given."""
    for split, chunk in sources.make_split_reader(data, Path(cache_folder(data.cache)))():
        if not splits or split in splits:
            yield chunk.text


def question_texts(task: TaskConfig, row: Row) -> QuestionTexts:
    """Return the texts of a question as they are in its source, without the template's words.

    They are the columns of the prompt; for a dialogue, its turns; for tagged tokens, their
    sentence.
    """
    if task.messages:
        column = template.parse_path(task.messages, 'task.messages').column
        turns = chat_template.parse_turns(row.columns[column], row.location)
        return tuple(turn['content'] for turn in turns)
    if task.tokens_column:
        path = template.parse_path(task.tokens_column, 'task.tokens_column')
        return (' '.join(template.get_texts(path, row.columns, row.location, 'task')),)
    names = [
        name
        for field in ('prompt', 'text_pair')
        for name in template.parse_template(getattr(task, field), f'task.{field}').columns
    ]
    values = (row.columns.get(name) for name in names)
    return tuple(value for value in values if isinstance(value, str) and value.strip())


def find_contamination(
    questions: Sequence[QuestionTexts],
    training_data: Sequence[DataConfig],
    ngram: int,
    progress: Progress,
    log: LogFn,
    *,
    all_splits: bool = False,
) -> Contamination | None:
    """Measure the overlap of each question with the training text; results are cached.

    The share of a question is that of its most contaminated text.

    Args:
      training_data: sources of the training text; the train split of each is searched.
      ngram: n-gram length in words; 0: off.
      all_splits: search all splits; a missing source is then an error instead of being logged.

    Returns:
      The overlap; None if the training text is unknown or the check is off.

    Raises:
      UserError: a source is missing.
    """
    if not ngram or not training_data or not questions:
        return None
    results = []
    for data in training_data:
        try:
            results.append(_find_cached(questions, data, ngram, progress.note, all_splits))
        except UserError as error:
            if all_splits:
                raise
            log(f'contamination: not checked against {data.source}: {error}')
    if not results:
        return None
    share = np.maximum.reduce([result.share for result in results])
    documents = sum(result.documents for result in results)
    return results[0]._replace(share=share, documents=documents)


def find_contamination_in_examples(
    questions: Sequence[QuestionTexts], others: Sequence[QuestionTexts], ngram: int
) -> Contamination | None:
    """Measure the overlap of each question with other questions, such as the training examples."""
    if not ngram or not questions:
        return None
    return _measure_questions(questions, ('\n'.join(texts) for texts in others), ngram)


def _find_cached(
    questions: Sequence[QuestionTexts],
    data: DataConfig,
    ngram: int,
    note: Callable[[str], None],
    all_splits: bool,
) -> Contamination:
    """Return the cached result; if there is none, one process computes it while others wait."""
    source = sources.describe_source('source', data.source)
    key = [CACHE_FORMAT, ngram, all_splits, dataclasses.asdict(data), source, questions]
    name = hashlib.sha256(json.dumps(key).encode('utf-8', 'surrogatepass')).hexdigest()[:24]
    path = Path(cache_folder(data.cache)) / 'contamination' / f'{name}.json'
    with files.hold_lock(path.with_suffix('.lock'), wait=True):
        if path.exists():
            cached = files.read_json(path)
            share, short = np.array(cached['share']), np.array(cached['short'], bool)
            return Contamination(share, short, ngram, cached['documents'])
        documents = iterate_documents(data, *(() if all_splits else ('train',)))
        reported = _report_progress(documents, data.source, note)
        result = _measure_questions(questions, reported, ngram)
        values = {
            'share': result.share.tolist(),
            'short': result.short.tolist(),
            'documents': result.documents,
        }
        files.write_json(path, values)
    return result


def _report_progress(
    documents: Iterator[str], source: str, note: Callable[[str], None]
) -> Iterator[str]:
    for number, document in enumerate(documents):
        if number % PROGRESS_INTERVAL == 0:
            note(f'checking {source} for contamination, {number:,} documents')
        yield document


def _measure_questions(
    questions: Sequence[QuestionTexts], documents: Iterator[str], ngram: int
) -> Contamination:
    """Measure the overlap of each question, which is that of its most contaminated text."""
    overlap = measure_overlap([text for texts in questions for text in texts], documents, ngram)
    ends = np.cumsum([len(texts) for texts in questions])
    shares, shorts = np.split(overlap.share, ends)[:-1], np.split(overlap.short, ends)[:-1]
    share = np.array([part.max(initial=0.0) for part in shares])
    short = np.array([bool(part.all()) for part in shorts])
    return overlap._replace(share=share, short=short)
