"""Records of a ladder of checkpoints: the loss of each on one text, with parameters and tokens.

One line per checkpoint, in the columns that `gpt-jax fit` reads. Losses per token can be compared
only where the text is split into the same tokens, so each row has a hash of its tokens
(`tokenization`); bits per byte can always be compared.
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
from gpt_jax.data.readers import read_rows
from gpt_jax.evaluation import contamination
from gpt_jax.inference import language_model
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.interop import huggingface
from gpt_jax.train import manifest

SUMMARY_FILE = 'summary.json'  # of a finished run

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


class Checkpoint(NamedTuple):
    """A checkpoint, before its weights are loaded.

    Attributes:
      name: as the user gave it.
      revision: what distinguishes it from others of the same name: the revision on the hub, or the
        step of a run.
      tokens: number of tokens it was trained on.
      role: the kind of run, as in summary.json; '' if it is not a run of this program.
    """

    name: str
    revision: str
    tokens: int
    role: str


def write_records(
    names: list[str], tokens: Mapping[str, int], path: Path, options: RecordOptions, log: LogFn
) -> Iterator[Record]:
    """Score the checkpoints that the file lacks, one after another, and append a row for each.

    Args:
      names: run folders, Hugging Face folders, or NAME[@REVISION] on the hub.
      tokens: number of training tokens by name; runs of this program know their own.
      path: records.jsonl; may exist.

    Yields:
      The row of each checkpoint, in order.

    Raises:
      UserError: tokens are unknown, the file has rows of another text or other options, or a
        checkpoint cannot be loaded; the rows before it are written.
    """
    checkpoints = [find_checkpoint(name, tokens.get(name)) for name in dict.fromkeys(names)]
    texts = read_texts(options.source)
    signature = _make_signature(texts, options)
    rows = files.read_jsonl(path) if path.exists() else []
    known = {(row.get('checkpoint'), row.get('revision')): row for row in rows}
    _check_rows(path, rows, signature)
    for number, checkpoint in enumerate(checkpoints, 1):
        row = known.get((checkpoint.name, checkpoint.revision))
        if row is not None:
            _check_tokens(path, row, checkpoint)
            log(f'{checkpoint.name}: is in {path} already')
        else:
            title = f'checkpoint {number} of {len(checkpoints)} · {checkpoint.name}'
            row = _score_checkpoint(checkpoint, texts, options, title, log) | signature
            files.append_jsonl(path, row)
        yield row


def read_tokens_table(path: Path) -> dict[str, int]:
    """Read training tokens by checkpoint, the columns `checkpoint` and `tokens` of a file of rows.

    Raises:
      UserError: the file cannot be read, or lacks a column or a value.
    """
    table = {}
    for where, row in read_rows(path):
        name, tokens = row.get('checkpoint'), row.get('tokens')
        if not name or tokens in (None, ''):
            raise UserError(f'{where}: must have a checkpoint and its tokens')
        table[str(name)] = parse_tokens(tokens, where)
    return table


def parse_tokens(value: Any, where: str) -> int:
    """Return a number of tokens, such as 300e9, as an integer.

    Raises:
      UserError: it is not a finite number of at least 1.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 1 <= number < math.inf:
        raise UserError(f'{where}: must be a number of tokens, such as 300e9, got {value!r}')
    return round(number)


def find_checkpoint(name: str, tokens: int | None) -> Checkpoint:
    """Find the tokens and the revision of a checkpoint, without loading it.

    Args:
      tokens: number of training tokens that the user gave; None: none.

    Raises:
      UserError: there is no such folder, or its tokens are unknown or differ from those given.
    """
    folder = files.find_snapshot(files.check_path(name, 'MODEL'), 'MODEL')
    if (folder / 'checkpoints').is_dir():
        step, own_tokens, role = _read_run(folder)
    elif folder.is_dir():
        step, own_tokens, role = '', None, ''
        if folder.parent.name == 'snapshots':
            step = folder.name
    elif huggingface.is_hub_name(name):
        step, own_tokens, role = name.partition('@')[2], None, ''
    else:
        raise UserError(f'{name}: no such folder')
    if own_tokens is not None and tokens not in (None, own_tokens):
        raise UserError(f'{name}: was trained on {own_tokens} tokens, but --tokens says {tokens}')
    if own_tokens is None and tokens is None:
        raise UserError(
            f'{name}: the number of tokens it was trained on is unknown; give it with --tokens, a '
            'number for all or a table with the columns checkpoint and tokens'
        )
    return Checkpoint(name, step, own_tokens or tokens or 0, role)


def _read_run(folder: Path) -> tuple[str, int | None, str]:
    """Return the step of a run's best or newest checkpoint, its tokens if known, and its role."""
    selected = manifest.select_checkpoint_folder(folder, None)
    meta = manifest.read_newest_meta(selected / 'checkpoints')
    step = 0 if meta is None else meta['next_batch']
    if not (folder / SUMMARY_FILE).exists():
        return str(step), None, ''
    summary = files.read_json(folder / SUMMARY_FILE)
    return str(step), step * summary['tokens'] // summary['steps'], summary.get('role', '')


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
