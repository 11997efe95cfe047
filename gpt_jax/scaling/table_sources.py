"""Where tables of runs come from: files, projects of W&B, folders of TensorBoard event files."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import table_formats
from gpt_jax.scaling.table_formats import Row, flatten_row

WANDB_PREFIX = 'wandb:'
WANDB_STATE = 'state'  # finished, crashed, failed, killed or running


class Source(NamedTuple):
    """A table by its own column names, and the bytes that its hash covers."""

    rows: list[Row]
    content: bytes


def list_paths(paths: str | Sequence[str]) -> list[str]:
    """Return a list of one path or of several."""
    return [paths] if isinstance(paths, str) else list(paths)


def read_source(path: str) -> Source:
    """Read the table of a file, of a folder of event files, or of wandb:ENTITY/PROJECT.

    Raises:
      UserError: it cannot be read.
    """
    if path.startswith(WANDB_PREFIX):
        return _make_source(read_wandb, path)
    if Path(path).is_dir():
        from gpt_jax.scaling.event_files import read_event_folder  # loads protocol buffers

        return _make_source(read_event_folder, path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: {error.strerror or error}') from None
    return Source(table_formats.parse_table(path, content), content)


def _make_source(read: Callable[[str], list[Row]], path: str) -> Source:
    rows = read(path)
    return Source(rows, json.dumps(rows, sort_keys=True, default=str).encode())


@functools.cache  # a command may read a table twice
def read_wandb(path: str) -> list[Row]:
    """Read the runs of a W&B project through its API: config and summary, a row per run.

    Args:
      path: wandb:ENTITY/PROJECT.

    Raises:
      UserError: the package is missing, or the service refuses or has no such project.
    """
    try:
        import wandb
    except ImportError:
        raise UserError(
            f"{path}: needs the package wandb: pip install 'gpt_jax[wandb]'; or export the table "
            'of runs as CSV'
        ) from None
    try:
        runs = list(wandb.Api().runs(path.removeprefix(WANDB_PREFIX)))
        return [_make_wandb_row(run) for run in runs]
    except (wandb.errors.Error, ValueError, OSError) as error:
        message = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(
            f'{path}: {message}; give wandb:ENTITY/PROJECT, and log in by `wandb login`'
        ) from None


def _make_wandb_row(run: object) -> Row:
    """Return the name, id and state of a run, its config, and the last values that it logged.

    A key of both is `config.KEY` and `summary.KEY`.
    """
    get = functools.partial(getattr, run)
    own: Row = {'run_id': get('id'), 'name': get('name'), WANDB_STATE: get('state')}
    config, summary = flatten_row(dict(get('config'))), flatten_row(dict(get('summary_metrics')))
    both = config.keys() & summary.keys()
    for prefix, values in (('config.', config), ('summary.', summary)):
        for key, value in values.items():
            if not key.startswith('_wandb'):
                own[prefix + key if key in both or key in own else key] = value
    return own
