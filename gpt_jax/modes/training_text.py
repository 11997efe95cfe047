"""What was a model trained on? The data of the run that made it, and of those whose weights it began with."""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax import overrides, pretrained, schema
from gpt_jax.data import sources
from gpt_jax.data.config import DataConfig, cache_folder
from gpt_jax.train import manifest


def of_run(kind: str, data: DataConfig, init_from: str) -> list[DataConfig]:
    """The texts that a run's model has read, the run's own first; empty where no run says.

    Args:
      kind: task.kind; a task's examples are no text.
    """
    own = [data] if kind == 'none' else []
    return own + (of_folder(pretrained.chosen(Path(init_from), None)) if init_from else [])


def of_folder(folder: Path) -> list[DataConfig]:
    """The same of the run in `folder`; empty for what is no run's, or was imported and not trained on here."""
    meta = manifest.newest_meta(folder / 'checkpoints') if (folder / 'checkpoints').is_dir() else None
    if meta is None or not meta['fingerprint']:
        return []
    config = meta['config']
    data = schema.from_dict(DataConfig, overrides.defaults()['data'] | config['data'], 'data')
    kind = config.get('task', {'kind': 'none'})['kind']
    return of_run(kind, data, config.get('init_from', ''))


def named(source: str, cache: str = '') -> DataConfig:
    """The data section of a source word.

    Raises:
      UserError: it is none.
    """
    return schema.from_dict(DataConfig, overrides.defaults()['data'] | {'source': source, 'cache': cache}, 'data')


def documents(data: DataConfig, *splits: str) -> Iterator[str]:
    """Texts of these splits; without any, of all."""
    for split, piece in sources.labelled(data, Path(cache_folder(data.cache)))():
        if not splits or split in splits:
            yield piece.text
