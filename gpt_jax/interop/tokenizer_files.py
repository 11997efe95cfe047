"""Which files carry a tokenizer from folder to folder, and how are ours written for others?"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.data.tokenizer import BYTES_CONTENT, END_OF_DOCUMENT, Tokenizer
from gpt_jax.errors import UserError
from gpt_jax.interop import tensors

TOKENIZER, VOCABULARY, MERGES = 'tokenizer.json', 'vocab.json', 'merges.txt'
ABOUT, GENERATION = 'tokenizer_config.json', 'generation_config.json'
TAKEN = (TOKENIZER, VOCABULARY, MERGES, ABOUT, 'special_tokens_map.json', 'added_tokens.json', 'chat_template.jinja',
         GENERATION)  # fmt: skip
IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')

# What generation_config.json may say beside, and the values with which transformers' `generate` leaves all as it is.
ALWAYS: Mapping[str, tuple[Any, ...]] = {
    'max_length': (20,), 'max_new_tokens': (), 'min_length': (0,), 'min_new_tokens': (0,), 'max_time': (),
    'stop_strings': (), 'do_sample': (False,), 'num_beams': (1,), 'num_return_sequences': (1,), 'penalty_alpha': (0,),
    'repetition_penalty': (1,), 'encoder_repetition_penalty': (1,), 'no_repeat_ngram_size': (0,),
    'encoder_no_repeat_ngram_size': (0,), 'bad_words_ids': ([],), 'forced_bos_token_id': (), 'forced_eos_token_id': (),
    'exponential_decay_length_penalty': (), 'suppress_tokens': ([],), 'begin_suppress_tokens': ([],),
    'sequence_bias': ({},), 'guidance_scale': (1,), 'token_healing': (False,), 'watermarking_config': (),
    'dola_layers': (), 'constraints': ([],), 'force_words_ids': ([],),
}  # fmt: skip
SAMPLING: Mapping[str, tuple[Any, ...]] = {
    'temperature': (1,), 'top_k': (50,), 'top_p': (1,), 'min_p': (0,), 'top_h': (), 'typical_p': (1,),
    'epsilon_cutoff': (0,), 'eta_cutoff': (0,),
}  # fmt: skip
BEAMS: Mapping[str, tuple[Any, ...]] = {
    'length_penalty': (1,), 'early_stopping': (False,), 'num_beam_groups': (1,), 'diversity_penalty': (0,),
}  # fmt: skip
SAID = (*IDS, *ALWAYS, *SAMPLING, *BEAMS)


def read(folder: Path) -> dict[str, bytes]:
    """The contents of the tokenizer's files that the folder holds, by name. What should be JSON is JSON.

    Raises:
      UserError: one of them is not, or is a link that leads elsewhere.
    """
    found = {}
    for name in TAKEN:
        if (folder / name).exists() or (folder / name).is_symlink():
            if name.endswith('.json'):
                tensors.read_json(folder, name)
            found[name] = tensors.content(folder, name)
    return found


def usable(found: dict[str, bytes]) -> bool:
    """Whether there is a tokenizer among the files."""
    return TOKENIZER in found or {VOCABULARY, MERGES} <= found.keys()


def with_generation(found: dict[str, bytes], said: dict[str, Any]) -> dict[str, bytes]:
    """The files with a generation_config.json, made of what config.json says of it where there is none."""
    return found if GENERATION in found else found | {GENERATION: _json(said)}


def speaker(found: dict[str, bytes]) -> str:
    """Which file of a folder says what there is of generation_config.json."""
    return GENERATION if GENERATION in found else 'config.json'


def ids(found: dict[str, bytes]) -> dict[str, Any]:
    """The special tokens' ids that the files name, those that there are."""
    about = _about(found)
    return {key: about[key] for key in IDS if about.get(key) is not None}


def ends(found: dict[str, bytes], where: Path, vocab_size: int) -> tuple[int, ...] | None:
    """The ids that end a text, as the files say; None: they say nothing.

    Args:
      where: the file that says it, for the message.

    Raises:
      UserError: `eos_token_id` is neither an id of the vocabulary nor a list of such.
    """
    said = ids(found).get('eos_token_id')
    if said is None:
        return None
    several = said if isinstance(said, list) else [said]
    for one in several:
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < vocab_size:
            raise UserError(f'{where}: eos_token_id: wants ids from 0 to {vocab_size - 1}, got {repr(one)[:80]}')
    return tuple(several)


def unfollowed(found: dict[str, bytes]) -> list[str]:
    """'temperature: 0.6' for everything that changes what transformers' `generate` writes and is not followed here."""
    about = _about(found)
    fields = dict(ALWAYS)
    fields |= SAMPLING if about.get('do_sample') else {}
    fields |= BEAMS if about.get('num_beams') not in (None, 1) else {}
    there = {field: about[field] for field in fields if about.get(field) is not None}
    return [f'{field}: {repr(value)[:40]}' for field, value in there.items() if value not in fields[field]]


def _about(found: dict[str, bytes]) -> dict[str, Any]:
    return dict(json.loads(found[GENERATION])) if GENERATION in found else {}


def write(folder: Path, found: dict[str, bytes]) -> None:
    for name, content in found.items():
        files.write_bytes(folder / name, content)


def made(tokenizer: Tokenizer, context: int) -> dict[str, bytes]:
    """Files of a tokenizer of ours; with them transformers encodes any text to the same ids.

    There, the name of the token that ends documents stands for that token wherever a text has it; here, never.
    """
    content = _content(tokenizer)
    about: dict[str, Any] = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'model_max_length': context,
        'clean_up_tokenization_spaces': False,
    }
    generation: dict[str, Any] = {}
    if tokenizer.end_of_document is not None:
        name = _name(content, tokenizer.end_of_document)
        about |= {'bos_token': name, 'eos_token': name}
        generation = {'bos_token_id': tokenizer.end_of_document, 'eos_token_id': tokenizer.end_of_document}
    return {TOKENIZER: content, ABOUT: _json(about), GENERATION: _json(generation)}


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of every token, special ones too. Two tokenizers whose files differ may well have the same."""
    import tokenizers

    return dict(tokenizers.Tokenizer.from_str(_content(tokenizer).decode()).get_vocab(with_added_tokens=True))


def _content(tokenizer: Tokenizer) -> bytes:
    """Its tokenizer.json."""
    return _bytes() if tokenizer.content == BYTES_CONTENT else tokenizer.content


def _name(content: bytes, number: int) -> str:
    import tokenizers

    return str(tokenizers.Tokenizer.from_str(content.decode()).id_to_token(number))


def _bytes() -> bytes:
    """The tokenizer 'bytes' as a BPE without merges: id 255, which no text has, is the end of a document."""
    import tokenizers

    vocabulary = {letter: byte for byte, letter in enumerate(_letters())} | {END_OF_DOCUMENT: 255}
    del vocabulary[_letters()[255]]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens([END_OF_DOCUMENT])
    return bpe.to_str().encode()


def _letters() -> list[str]:
    """The letter of each byte in byte-level BPE (Radford et al. 2019): itself, or one from 256 on if not printable."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + '\n').encode()
