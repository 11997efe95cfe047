"""How does a trained model write at the terminal? Flags to a job: prompts from somewhere, texts to somewhere."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from gpt_jax import jsonl
from gpt_jax.errors import UserError
from gpt_jax.generate import options
from gpt_jax.generate.options import OPTIONS

Say = Callable[[str], None]

# The mode's own flags, beside the options, --checkpoint and --output.
FLAGS = {
    'prompt': 'What to go on from; give it several times for several texts.',
    'prompts': 'File of prompts: .txt, one per line, or .jsonl, the field "prompt" of each record.',
    'interactive': 'Read prompts from the terminal.',
    'chat': 'Talk with the model at the terminal: by its chat template, or as "User: ..." and "Assistant: ...".',
    'draft': "Speeds up: the folder of a smaller model with the same tokenizer, or 'lookup' for the text's own past.",
    'weights': 'How matrices are kept: float32 (the default), bfloat16, int8 or int4. Also for --mode=evaluate.',
    'devices': 'DATA[xFSDP[xTENSOR]]: devices that share the texts, also the weights, the heads; 1 by default.',
}


def define_flags() -> None:
    """A flag for each option, and the mode's own. None: not given."""
    for name, (default, text) in OPTIONS.items():
        if isinstance(default, bool) and name != 'early_stopping':
            flags.DEFINE_boolean(name, None, text)
        elif name == 'stop':
            flags.DEFINE_multi_string(name, None, text)
        else:
            flags.DEFINE_string(name, None, text)
    for name, text in FLAGS.items():
        if name in ('interactive', 'chat'):
            flags.DEFINE_boolean(name, None, text)
        else:
            (flags.DEFINE_multi_string if name == 'prompt' else flags.DEFINE_string)(name, None, text)


def given_options() -> dict[str, Any]:
    """The options that the command line gives.

    Raises:
      UserError: a value that is none.
    """
    given: dict[str, Any] = {}
    for name in OPTIONS:
        value = flags.FLAGS[name].value
        if value is not None:
            if isinstance(value, list):  # a flag that is given several times
                given[name] = [one for text in value for one in options.parsed(name, text)]
            else:
                given[name] = options.parsed(name, value) if isinstance(value, str) else value
    return given


class Job(NamedTuple):
    """What the command line asks for. prompts: None for those of the terminal. output: None for the terminal.
    chat: whether the terminal's are turns of a dialogue. devices: by axis. options: those given, by name."""

    checkpoint: str
    prompts: list[str] | None
    chat: bool
    output: Path | None
    draft: str | None
    weights: str
    devices: dict[str, int]
    options: dict[str, Any]


def job(checkpoint: str, output: str | None) -> Job:
    """The command line's job.

    Raises:
      UserError: flags that contradict each other, no prompt, or a file that cannot be read.
    """
    prompt, prompts, interactive, talk, draft, weights, shared = (flags.FLAGS[name].value for name in FLAGS)
    sources = [name for name in ('prompt', 'prompts', 'interactive', 'chat') if flags.FLAGS[name].value]
    if len(sources) != 1:
        said = ' and '.join(f'--{name}' for name in sources) or 'no prompt'
        raise UserError(f'--mode=generate: {said}; give one of --prompt=TEXT, --prompts=FILE, --interactive, --chat')
    if output is not None and (interactive or talk):
        raise UserError('--output: what is written at the terminal stays there; give --prompt or --prompts')
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise UserError(f'--output={output}: there is no such folder')
    given = given_options()
    chosen = options.make(given)
    if draft is not None:
        options.check_draft(chosen)
    texts = None if interactive or talk else prompt or _read(Path(str(prompts)))
    path = None if output is None else Path(output)
    return Job(checkpoint, texts, bool(talk), path, draft, weights or 'float32', devices(shared), given)


def _read(path: Path) -> list[str]:
    """The prompts of a file; lines without text are passed over."""
    if path.suffix == '.jsonl':
        found = []
        for number, record in enumerate(jsonl.read(path), 1):
            if not isinstance(record.get('prompt'), str):
                raise UserError(f'{path}: record {number} has no string "prompt"')
            found.append(record['prompt'])
    elif path.suffix == '.txt':
        try:
            lines = path.read_bytes().decode('utf-8').split('\n')  # not splitlines: a prompt may hold U+2028, say
        except OSError as error:
            raise UserError(f'{path}: {error.strerror or error}') from None
        except UnicodeDecodeError as error:
            raise UserError(f'{path}: byte {error.start} is not UTF-8') from None
        found = [line.removesuffix('\r') for line in lines if line.strip()]
    else:
        raise UserError(f'--prompts={path}: write .txt for a prompt per line, or .jsonl for records with "prompt"')
    if not found:
        raise UserError(f'{path}: holds no prompt')
    return found


def devices(text: str | None) -> dict[str, int]:
    """What --devices says, by axis."""
    if not re.fullmatch('[1-9][0-9]*(x[1-9][0-9]*){0,2}', text or '1'):
        raise UserError(f'--devices={text}: wants a number, or two as in 2x4, or three')
    return dict(zip(('data', 'fsdp', 'tensor'), map(int, (text or '1').split('x')), strict=False))


def generate(job: Job, say: Say) -> None:
    """Loads the model and writes.

    Raises:
      UserError: no such model, or prompts or options that do not suit it.
    """
    from gpt_jax import language_model
    from gpt_jax.modes import conversation, dialogue, texts

    model = language_model.load(job.checkpoint, draft=job.draft, weights=job.weights, say=say, **job.devices)
    if job.prompts is None:
        turns = dialogue.of(job.checkpoint, model) if job.chat else None
        conversation.converse(model, job.options, say, turns)
    elif job.output is None:
        texts.show(model, job.prompts, options.make(job.options))
    elif texts.record(model, job.prompts, options.make(job.options), job.output):
        say(f'{job.output}: written')
    if job.draft is not None and (tally := model.tally).readings:
        share = tally.accepted / max(1, tally.proposed)
        say(
            f'draft: {tally.proposed} tokens proposed, {share:.0%} accepted; '
            f'{(tally.accepted + tally.readings) / tally.readings:.2f} tokens per reading of the model'
        )
