"""Tokenizer files of Hugging Face folders: reading, copying and writing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.data.tokenizer import (
    BYTES_CONTENT,
    CONFIG_FILE,
    END_OF_DOCUMENT,
    MERGES_FILE,
    SIDE_FILES,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    Tokenizer,
)
from gpt_jax.interop import safetensors_files

GENERATION_CONFIG_FILE = 'generation_config.json'
CARRIED_FILES = (
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    MERGES_FILE,
    *SIDE_FILES,
    'chat_template.jinja',
    GENERATION_CONFIG_FILE,
)
SPECIAL_ID_FIELDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')

# Other fields of generation_config.json, with the values that do not change the output of
# transformers' `generate`; the second table matters only for sampling, the third for beam search.
NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
    'max_length': (20,),
    'max_new_tokens': (),
    'min_length': (0,),
    'min_new_tokens': (0,),
    'max_time': (),
    'stop_strings': (),
    'do_sample': (False,),
    'num_beams': (1,),
    'num_return_sequences': (1,),
    'penalty_alpha': (0,),
    'repetition_penalty': (1,),
    'encoder_repetition_penalty': (1,),
    'no_repeat_ngram_size': (0,),
    'encoder_no_repeat_ngram_size': (0,),
    'bad_words_ids': ([],),
    'forced_bos_token_id': (),
    'forced_eos_token_id': (),
    'exponential_decay_length_penalty': (),
    'suppress_tokens': ([],),
    'begin_suppress_tokens': ([],),
    'sequence_bias': ({},),
    'guidance_scale': (1,),
    'token_healing': (False,),
    'watermarking_config': (),
    'dola_layers': (),
    'constraints': ([],),
    'force_words_ids': ([],),
}
NEUTRAL_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    'temperature': (1,),
    'top_k': (50,),
    'top_p': (1,),
    'min_p': (0,),
    'top_h': (),
    'typical_p': (1,),
    'epsilon_cutoff': (0,),
    'eta_cutoff': (0,),
}
NEUTRAL_BEAM_SEARCH: Mapping[str, tuple[Any, ...]] = {
    'length_penalty': (1,),
    'early_stopping': (False,),
    'num_beam_groups': (1,),
    'diversity_penalty': (0,),
}
GENERATION_FIELDS = (*SPECIAL_ID_FIELDS, *NEUTRAL_VALUES, *NEUTRAL_SAMPLING, *NEUTRAL_BEAM_SEARCH)


def read_files(folder: Path) -> dict[str, bytes]:
    """Read the contents of the tokenizer files in a folder, by name.

    Raises:
      UserError: a .json file is not a JSON object, or a file is a link out of the folder.
    """
    contents = {}
    for name in CARRIED_FILES:
        if (folder / name).exists() or (folder / name).is_symlink():
            if name.endswith('.json'):
                safetensors_files.read_json(folder, name)
            contents[name] = safetensors_files.read_file(folder, name)
    return contents


def has_tokenizer(contents: dict[str, bytes]) -> bool:
    """Return whether the files contain a tokenizer."""
    return TOKENIZER_FILE in contents or {VOCABULARY_FILE, MERGES_FILE} <= contents.keys()


def add_generation_config(
    contents: dict[str, bytes], generation_fields: dict[str, Any]
) -> dict[str, bytes]:
    """Return the files; a missing generation_config.json is built from config.json's fields."""
    if GENERATION_CONFIG_FILE in contents:
        return contents
    return contents | {GENERATION_CONFIG_FILE: _encode_json(generation_fields)}


def generation_source(contents: dict[str, bytes]) -> str:
    """Return the name of the file that holds the generation options."""
    return GENERATION_CONFIG_FILE if GENERATION_CONFIG_FILE in contents else 'config.json'


def special_token_ids(contents: dict[str, bytes]) -> dict[str, Any]:
    """Return the ids of the special tokens that the files name."""
    generation = _parse_generation_config(contents)
    return {key: generation[key] for key in SPECIAL_ID_FIELDS if generation.get(key) is not None}


def read_end_ids(
    contents: dict[str, bytes], source: Path, vocab_size: int, log: LogFn
) -> tuple[int, ...] | None:
    """Return the ids that end a text according to the files; None if they name none.

    Args:
      contents: contents of the files, by name.
      source: the file that names the ids, for messages.
      vocab_size: the model's vocabulary size. A larger id cannot be generated, so it is left out.
      log: receives a line that names the ids left out.

    Raises:
      UserError: `eos_token_id` is neither an id nor a list of ids.
    """
    value = special_token_ids(contents).get('eos_token_id')
    if value is None:
        return None
    ids = value if isinstance(value, list) else [value]
    for id_ in ids:
        if not isinstance(id_, int) or isinstance(id_, bool) or id_ < 0:
            raise UserError(f'{source}: eos_token_id: must be ids of 0 or more, got {id_!r:.80}')
    reachable = tuple(id_ for id_ in ids if id_ < vocab_size)
    if len(reachable) < len(ids):
        beyond = ', '.join(str(id_) for id_ in ids if id_ >= vocab_size)
        log(f'{source}: eos_token_id {beyond}: ignored, since the vocabulary has {vocab_size} ids')
    return reachable or None


def list_ignored_options(contents: dict[str, bytes]) -> list[str]:
    """List the options that change transformers' output and are ignored: 'temperature: 0.6'."""
    generation = _parse_generation_config(contents)
    neutral = dict(NEUTRAL_VALUES)
    if generation.get('do_sample'):
        neutral |= NEUTRAL_SAMPLING
    if generation.get('num_beams') not in (None, 1):
        neutral |= NEUTRAL_BEAM_SEARCH
    return [
        f'{field}: {repr(generation[field])[:40]}'
        for field, values in neutral.items()
        if generation.get(field) is not None and generation[field] not in values
    ]


def _parse_generation_config(contents: dict[str, bytes]) -> dict[str, Any]:
    content = contents.get(GENERATION_CONFIG_FILE)
    return {} if content is None else dict(json.loads(content))


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Write files by name."""
    for name, content in contents.items():
        files.write_bytes(folder / name, content)


def make_files(tokenizer: Tokenizer, context: int) -> dict[str, bytes]:
    """Make the files of one of our tokenizers, for transformers to encode text to the same ids.

    One exception: transformers parses the name of the end-of-document token in a text as that
    token, which we do in prompts only.

    Args:
      tokenizer: our tokenizer.
      context: the model's context length.
    """
    content = _tokenizer_json(tokenizer)
    tokenizer_config: dict[str, Any] = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'model_max_length': context,
        'clean_up_tokenization_spaces': False,
    }
    generation: dict[str, Any] = {}
    end_id = tokenizer.end_of_document
    if end_id is not None:
        import tokenizers

        name = str(tokenizers.Tokenizer.from_str(content.decode()).id_to_token(end_id))
        tokenizer_config |= {'bos_token': name, 'eos_token': name}
        generation = {'bos_token_id': end_id, 'eos_token_id': end_id}
    return {
        TOKENIZER_FILE: content,
        CONFIG_FILE: _encode_json(tokenizer_config),
        GENERATION_CONFIG_FILE: _encode_json(generation),
    }


def get_vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the id of every token, special ones included; equal for equivalent files."""
    import tokenizers

    inner = tokenizers.Tokenizer.from_str(_tokenizer_json(tokenizer).decode())
    return dict(inner.get_vocab(with_added_tokens=True))


def _tokenizer_json(tokenizer: Tokenizer) -> bytes:
    return _byte_bpe() if tokenizer.content == BYTES_CONTENT else tokenizer.content


def _byte_bpe() -> bytes:
    """Return the tokenizer 'bytes' as a BPE without merges.

    Id 255, which does not occur in UTF-8, is the end of a document.
    """
    import tokenizers

    letters = _byte_letters()
    vocabulary = {letter: byte for byte, letter in enumerate(letters[:255])}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary | {END_OF_DOCUMENT: 255}, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens([END_OF_DOCUMENT])
    return bpe.to_str().encode()


def _byte_letters() -> list[str]:
    """Return the letter of each byte in byte-level BPE (Radford et al. 2019).

    It is the byte's own character if that is printable, or else one from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(substitutes)) for byte in range(256)]


def _encode_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + '\n').encode()
