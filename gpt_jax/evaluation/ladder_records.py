"""Records of a ladder of checkpoints: the loss of each on one text, with parameters and tokens.

One line per checkpoint, in the columns that `gpt-jax fit` reads. Losses per token can be compared
only where the text is split into the same tokens, so each row has a hash of its tokens
(`tokenization`); bits per byte can always be compared. A row also has the place of its checkpoint
and an identity of its weights, so that a folder that holds other weights now is scored again.
"""

import gc
import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core import files, model_counts
from gpt_jax.core.errors import UserError
from gpt_jax.core.formatting import format_short_count
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.evaluation import contamination
from gpt_jax.evaluation.ladder_checkpoints import (
    Checkpoint,
    find_checkpoint,
    find_location,
    index_tokens,
)
from gpt_jax.inference import language_model
from gpt_jax.inference.language_model import LanguageModel

Record = dict[str, Any]


class RecordOptions(NamedTuple):
    """How checkpoints are scored; all rows of a file have the same.

    Attributes:
      source: the text, 'files:GLOB' or 'tfds:NAME'; all of it is scored.
      context: maximum number of input tokens; 0: each model's context.
      stride: tokens between windows; 0: the context.
      weight_dtype, devices: dtype and mesh axes of the weights.
    """

    source: str
    context: int
    stride: int
    weight_dtype: str
    devices: dict[str, int]


def write_records(
    names: list[str], tokens: Mapping[str, int], path: Path, options: RecordOptions, log: LogFn
) -> Iterator[Record]:
    """Score the checkpoints that the file lacks, one after another, and append a row for each.

    A checkpoint that was given twice is scored once. If a folder holds other weights than those in
    its row, they are scored and the row is replaced.

    Args:
      names: run folders, Hugging Face folders, or NAME[@REVISION] on the hub.
      tokens: number of training tokens by name, in any spelling; runs of this program know their
        own.
      path: records.jsonl; may exist.

    Yields:
      The row of each checkpoint, in order.

    Raises:
      UserError: tokens are unknown, the file has rows of another text or other options, or a
        checkpoint cannot be loaded; the rows before it are written.
    """
    tokens = index_tokens(tokens)
    first_names: dict[str, str] = {}
    for name in names:
        first_names.setdefault(find_location(name), name)
    checkpoints = [find_checkpoint(name, tokens.get(at)) for at, name in first_names.items()]
    texts = read_texts(options.source)
    signature = _make_signature(texts, options)
    rows = files.read_jsonl(path) if path.exists() else []
    _check_rows(path, rows, signature)
    for number, checkpoint in enumerate(checkpoints, 1):
        row = next((row for row in rows if _has_weights(row, checkpoint)), None)
        if row is not None:
            _check_tokens(path, row, checkpoint)
            log(f'{checkpoint.name}: is in {path} already')
        else:
            is_replaced = any(_is_of(row, checkpoint) for row in rows)
            if is_replaced:
                log(f'{checkpoint.name}: holds other weights than its row in {path}; scored again')
            title = f'checkpoint {number} of {len(checkpoints)} · {checkpoint.name}'
            row = _score_checkpoint(checkpoint, texts, options, title, log) | signature
            if is_replaced:
                others = [old for old in files.read_jsonl(path) if not _is_of(old, checkpoint)]
                files.write_jsonl(path, [*others, row])
            else:
                files.append_jsonl(path, row)
        yield row


def _has_weights(row: Record, checkpoint: Checkpoint) -> bool:
    """Return whether a row is of these weights. Its folder may have been moved with its parents."""
    is_here = row.get('location') == checkpoint.location
    if is_here and '' in (row.get('weights_id'), checkpoint.weights_id):
        return True  # on the hub, which did not answer
    is_named = row.get('checkpoint') == checkpoint.name
    return (is_here or is_named) and row.get('weights_id') == checkpoint.weights_id


def _is_of(row: Record, checkpoint: Checkpoint) -> bool:
    """Return whether a row is of what was at this place; the first rows had no location."""
    if 'location' in row:
        return bool(row['location'] == checkpoint.location)
    return row.get('checkpoint') == checkpoint.name


def read_texts(source: str) -> list[str]:
    """Read the documents of a source that are not blank.

    Raises:
      UserError: it cannot be read, or has none.
    """
    data = contamination.make_data_config(source)
    texts = [text for text in contamination.iterate_documents(data) if text.strip()]
    if not texts:
        raise UserError(f'--text={source}: has no text')
    return texts


def _make_signature(texts: list[str], options: RecordOptions) -> Record:
    """Return the columns that all rows of a file share."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return {
        'text': options.source,
        'text_sha256': digest.hexdigest(),
        'max_context': options.context,
        'stride': options.stride,
        'weights': options.weight_dtype,
    }


def _check_rows(path: Path, rows: list[Record], signature: Record) -> None:
    """Raise UserError if a row was made from another text or with other options."""
    flags = {
        'text_sha256': '--text',
        'max_context': '--context',
        'stride': '--stride',
        'weights': '--weight_dtype',
    }
    for number, row in enumerate(rows, 1):
        for column, flag in flags.items():
            if row.get(column) != signature[column]:
                raise UserError(
                    f'--records={path}: row {number} has another {flag} '
                    f'({row.get(column)}, not {signature[column]}); choose another file'
                )


def _check_tokens(path: Path, row: Record, checkpoint: Checkpoint) -> None:
    if row['tokens'] != checkpoint.tokens:
        raise UserError(
            f'--records={path}: has {row["tokens"]} tokens for {checkpoint.name}, got '
            f'{checkpoint.tokens}; delete this row or correct --tokens'
        )


def _score_checkpoint(
    checkpoint: Checkpoint, texts: list[str], options: RecordOptions, title: str, log: LogFn
) -> Record:
    axes: dict[str, Any] = dict(options.devices)
    model = language_model.load(checkpoint.name, weight_dtype=options.weight_dtype, log=log, **axes)
    progress = Progress(sys.stderr, trial=None, name=title, steps=len(texts))
    row = _measure(model, checkpoint, texts, options, progress)
    progress.close()
    del model
    gc.collect()  # its compiled functions refer to each other, and two models may not fit
    return row


def _measure(
    model: LanguageModel,
    checkpoint: Checkpoint,
    texts: list[str],
    options: RecordOptions,
    progress: Progress,
) -> Record:
    context = min(options.context or model.config.context, model.config.context)
    nats, scored, size, digest = [], 0, 0, hashlib.sha256()
    for number, text in enumerate(texts, 1):
        progress.note(f'text {number}/{len(texts)}')
        result = model.scorer.perplexity(text, options.stride or None, context=context)
        nats.append(result.nats)
        scored += result.tokens
        size += result.bytes
        (ids,) = model.tokenizer.encode_batch([text])
        digest.update(np.asarray([result.tokens, *ids], '<i8').tobytes())
    total = math.fsum(nats)
    params = model_counts.parameters(model.config)
    flops = model_counts.flops_per_token(model.config)
    return {
        'name': checkpoint.name,
        'status': 'done',
        'role': checkpoint.role,
        'checkpoint': checkpoint.name,
        'revision': checkpoint.revision,
        'location': checkpoint.location,
        'weights_id': checkpoint.weights_id,
        **{f'params_{name}': count for name, count in params.items()},
        'tokens': checkpoint.tokens,
        **{f'flops_{name}': count * checkpoint.tokens for name, count in flops.items()},
        'loss': total / scored,
        'bits_per_byte': total / math.log(2) / size,
        'context': context,
        'scored_tokens': scored,
        'scored_bytes': size,
        'tokenization': digest.hexdigest()[:16],
    }


def describe_row(row: Record) -> str:
    """Describe a row in one line."""
    params, tokens = (format_short_count(row[name]) for name in ('params_total', 'tokens'))
    return (
        f'{row["checkpoint"]}: {params} parameters, {tokens} tokens, {row["loss"]:.4f} nats/token, '
        f'{row["bits_per_byte"]:.4f} bits/byte'
    )


def describe_comparability(rows: list[Record], path: Path) -> list[str]:
    """Return the lines that say how the rows can be fitted."""
    lines = []
    contexts = sorted({row['context'] for row in rows})
    if len(contexts) > 1:
        lines.append(
            f'{path}: scored with contexts of {", ".join(map(str, contexts))} tokens; '
            f'--context={contexts[0]} and another file gives all the same'
        )
    command = f'gpt-jax fit {path}'
    if len({row['tokenization'] for row in rows}) > 1:
        command += ' --columns=bits_per_byte=loss'
    return [*lines, f'{path}: {len(rows)} models; next: {command}']
