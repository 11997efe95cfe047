"""Synthetic datasets, generated on this machine from Python's library or by small grammars.

They are for trying out tasks without a network or data, not for claims about language; each module
states where its rows come from and what their limits are. Rows from Python's library differ between
Python versions.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from gpt_jax.core import files
from gpt_jax.tasks.synthetic import code, dialogue, docstrings, sentences, tagging, translation
from gpt_jax.tasks.synthetic.library import Splits

# Name -> function from the folder of Python's library to rows. Each is a pure function of that
# folder, except for `translation`, which reads the installed message catalogues.
DATASETS: dict[str, Callable[[Path], Splits]] = {
    'code': code.make_code_rows,
    'summaries': docstrings.make_summaries_rows,
    'questions': docstrings.make_questions_rows,
    'dialogue': dialogue.make_dialogue_rows,
    'translation': translation.make_translation_rows,
    'grammar': translation.make_grammar_rows,
    'sentiment': sentences.make_sentiment_rows,
    'pairs': sentences.make_pairs_rows,
    'similarity': sentences.make_similarity_rows,
    'choices': docstrings.make_choices_rows,
    'entities': tagging.make_entities_rows,
    'roles': tagging.make_roles_rows,
    'preferences': docstrings.make_preferences_rows,
}


def generate_dataset(name: str, cache: Path, stdlib: Path) -> Path:
    """Generate a dataset unless it is in the cache.

    Args:
      name: a key of DATASETS.
      cache: folder for datasets; the rows go to its subfolder synthetic/NAME-HASH.
      stdlib: folder of Python's library.

    Returns:
      The folder that holds train.jsonl, validation.jsonl and test.jsonl.
    """
    sources = [path.read_text('utf-8') for path in sorted(Path(__file__).parent.glob('*.py'))]
    # The machine is part of the key, since `translation` depends on the installed programs.
    key = [platform.python_version(), str(stdlib), platform.node(), *sources]
    digest = hashlib.sha256(json.dumps(key).encode('utf-8')).hexdigest()[:16]
    folder = cache / 'synthetic' / f'{name}-{digest}'
    with files.hold_lock(folder.with_name(f'{name}.lock'), wait=True):
        if not folder.exists():
            unfinished = folder.with_name(f'.{folder.name}')
            # It may be left over from a process that was killed while it held the lock.
            shutil.rmtree(unfinished, ignore_errors=True)
            for split, rows in DATASETS[name](stdlib).items():
                lines = (json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
                files.write_text(unfinished / f'{split}.jsonl', ''.join(lines))
            unfinished.rename(folder)
    return folder
