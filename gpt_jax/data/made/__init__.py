"""Which sets are made on this machine, of what every machine has, and where do they lie once they are?

They are for trying things where there is no network and no data, not for claims about language: each says in its own
docstring what it is made of and what it is not. What is made of Python's library differs between Python's versions.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from gpt_jax import files
from gpt_jax.data.made import (
    choices,
    code,
    dialogue,
    entities,
    grammar,
    pairs,
    preferences,
    questions,
    roles,
    sentiment,
    similarity,
    summaries,
    translation,
)
from gpt_jax.data.made.splits import Splits

# Folder of Python's library -> rows of each split; the same for the same library and the same files of this folder.
SETS: dict[str, Callable[[Path], Splits]] = {
    'code': code.rows,
    'summaries': summaries.rows,
    'questions': questions.rows,
    'dialogue': dialogue.rows,
    'translation': translation.rows,
    'grammar': grammar.rows,
    'sentiment': sentiment.rows,
    'pairs': pairs.rows,
    'similarity': similarity.rows,
    'choices': choices.rows,
    'entities': entities.rows,
    'roles': roles.rows,
    'preferences': preferences.rows,
}


def prepare(name: str, cache: Path, stdlib: Path) -> Path:
    """The folder with train.jsonl, validation.jsonl and test.jsonl of the set `name`, made first where it is not."""
    about = [platform.python_version(), str(stdlib), platform.node()]  # `translation` reads what else is installed here
    about += [path.read_text('utf-8') for path in sorted(Path(__file__).parent.glob('*.py'))]
    digest = hashlib.sha256(json.dumps(about).encode('utf-8')).hexdigest()[:16]
    folder = cache / 'made' / f'{name}-{digest}'
    with files.lock(cache / 'made' / f'{name}.lock', wait=True):
        if not folder.exists():
            unfinished = folder.with_name(f'.{folder.name}')
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process killed while it held the lock that we hold
            for split, rows in SETS[name](stdlib).items():
                lines = (json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
                files.write_text(unfinished / f'{split}.jsonl', ''.join(lines))
            unfinished.rename(folder)
    return folder
