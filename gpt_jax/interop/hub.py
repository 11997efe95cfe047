"""Where is the folder that was named? Here, or on the Hugging Face hub, from where it is fetched once."""

import re
from pathlib import Path

from gpt_jax import files
from gpt_jax.errors import UserError

# What is fetched: nothing that could run, and of several formats of the weights only the one that is read.
FILES = ('config.json', 'generation_config.json', 'model.safetensors', 'model.safetensors.index.json',
         'model-*-of-*.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json',
         'added_tokens.json', 'vocab.json', 'merges.txt', 'chat_template.jinja')  # fmt: skip
_NAME = re.compile(r'([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(@[\w./-]+)?', re.ASCII)


def named(source: str) -> bool:
    """Whether this can be a name of the hub, and no folder or file here, nor a new one of a folder that is."""
    path = files.path(source, '--source')
    here = path.exists() or ('/' in source and path.parent.exists())
    return not here and _NAME.fullmatch(source) is not None


def folder(source: str, asked: str = '--source') -> Path:
    """The local folder of `source`: a path, or a name of the hub ('gpt2', 'org/name', 'org/name@revision').

    Args:
      asked: what the user gave it to, for the message.

    Raises:
      UserError: neither a folder here nor a name, or the hub cannot be reached or does not have it.
    """
    path = files.path(source, asked)
    if source and path.is_dir():
        return path
    if source and path.exists():
        raise UserError(f'{asked}={source}: is a file; name the folder that it lies in')
    if not _NAME.fullmatch(source):
        raise UserError(f'{asked}={source}: no such folder, and no name on the Hugging Face hub')
    return _fetched(source, asked)


def _fetched(source: str, asked: str) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{asked}={source}: no such folder, and fetching from the hub takes: pip install -e '.[hf]'"
        ) from None
    name, _, revision = source.partition('@')
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # whatever the network, the hub and its client raise
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f'{asked}={source}: no such folder, and the hub does not give it ({reason}); fetch it elsewhere and '
            'name its folder'
        ) from None
