"""Small runs whose numbers a refactoring must leave bitwise equal.

Each case is a function from an empty folder to a flat dictionary. The value under a key is one of

* a list of floats: equal on the processor that recorded it, and close on any other;
* a list of integers or a string (token ids, text, a SHA-256): equal on the processor that recorded
  it, and not compared on any other, since an argmax may flip there;
* a list of floats under a key that ends in `_approximate`: close on any processor. A global norm is
  a sum over all leaves in the order of the tree, so its last bit changes when a leaf is renamed.

Moving code and renaming modules, parameters, config keys or flags must not change a value. Four
things do depend on names and are replaced while a case runs (see `ignore_names`): the random key
of a parameter, which Flax derives from module names; the random key of a LoRA adapter, which is
derived from the parameter's path; the order of training data, which follows from a hash over words
of the config; what XLA fuses, which follows from the order of a program's arguments and so of the
parameters' names, and decides where it rounds. The case `seeds` alone runs without the
replacement. It shows whether a seed still gives the same initial parameters and order of data.
"""

import contextlib
import hashlib
import io
import json
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.core import scope
from jax._src import compiler  # nothing public changes the options of every compilation

import gpt_jax
from gpt_jax import base_config
from gpt_jax.cli import main as cli
from gpt_jax.core.config import to_raw
from gpt_jax.core.errors import Preempted
from gpt_jax.train.multihost import Preemption
from gpt_jax.trainer import trainer

Result = dict[str, list[float] | list[int] | str]

# What follows, down to `CSV_FILES`, names all config keys, options, flags and output fields that
# the cases use, so that a rename has one place to follow. Words that are values count, too.
SMALL = {
    'name': 'reference',
    'seed': 3,
    'model.layers': 2,
    'model.width': 32,
    'model.heads': 4,
    'model.context': 32,
    'model.vocab_multiple': 2,
    'train.batch_size': 8,
    'train.steps': 8,
    'train.log_every': 1,
    'train.keep_checkpoints': 1,
    'train.tensorboard': False,
    'optimizer.learning_rate': 3e-3,
    'optimizer.grad_clip_norm': 1000.0,  # not reached; the norm's last bit depends on leaf order
    'mesh.data': 1,
}
SOURCE, TASK_SOURCE, INIT_FROM = 'data.source', 'task.source', 'init_from'
CLIPPED = {'optimizer.grad_clip_norm': 0.1}
MODERN = {
    'model.norm': 'rms',
    'model.position': 'rotary',
    'model.feedforward': 'gated',
    'model.activation': 'silu',
    'model.kv_heads': 2,
    'model.qk_norm': True,
    'model.bias': False,
    'model.tied_head': False,
    'model.z_loss': 1e-4,
    'model.attention_pattern': ['full', 'window'],
    'model.window': 8,
    'model.attention_chunk': 16,
    'model.loss_chunk': 16,
    'train.microbatch_size': 4,
}
EXPERTS = {
    'model.feedforward': 'experts',
    'model.experts': 4,
    'model.experts_per_token': 2,
    'model.shared_experts': 1,
    'model.mlp_width': 32,
    'model.activation': 'silu',
}
ISOLATE = {'data.packing': 'isolate'}
LORA = {'finetune.rank': 2, 'finetune.targets': ['all-linear'], 'finetune.dropout': 0.1}
CLASSIFY = {
    'task.kind': 'classification',
    'task.prompt': '{text}',
    'task.label': 'mood',
    'task.labels': ['bad', 'good'],
    'model.dropout': 0.1,
}
MUP = {'model.parametrization': 'mup', 'model.base_width': 16, 'model.base_head_dim': 4}
EIGHT_DEVICES = {'mesh.strategy': 'fsdp', 'mesh.fsdp': 4, 'mesh.tensor': 2}
FIRST_STEP = {'train.steps': 1}
LONGER = {'train.steps': 120, 'model.context': 48}
METRICS_FILE, TRAIN_LOSS, GRADIENT_NORM = 'metrics.jsonl', 'loss', 'gradient_norm'
VALIDATION = ('validation_loss', 'validation_accuracy')  # fields of the summary, where present
PROMPTS = ('the sum of ', 'a small')
GREEDY = {'max_new_tokens': 24}
SAMPLED = GREEDY | {'temperature': 0.9, 'top_k': 40, 'top_p': 0.95, 'seed': 5}
BEAM = GREEDY | {'num_beams': 3, 'length_penalty': 0.8}
JSON_FLAG = '--json={path}'
FIT = ('fit', '{a}', '--approach=all', '--at-flops=1e23', '--draws=20', '--starts=16')
PLAN = ('plan', '--flops=1e20', '--runs={a}', '--draws=20')
PLAN_SWEEP = (
    'plan',
    '--isoflop=1e17,4e17',
    '--head-dim=64',
    '--layers=6',
    '--context=1024',
    '--vocab=8192',
)
COMPARE = ('compare', '{a}', '{b}', '--draws=20')

CSV_FILES = {name: str(Path(__file__).with_name(f'runs_{name}.csv')) for name in ('a', 'b')}
WORDS = ['a', 'the', 'sum', 'of', 'two', 'small', 'numbers', 'is', 'one', 'large', 'and', 'so']
WITHOUT_FUSION = {'xla_disable_hlo_passes': 'fusion'}
DATA_SEED = 7  # of the order of training data, in place of one derived from names


def run_dense(folder: Path) -> Result:
    """A model in the style of GPT-2, on one device."""
    return train_model(folder, {})


def run_clipped(folder: Path) -> Result:
    """The same with gradients clipped at every step; approximate, since the norm is."""
    result = train_model(folder, CLIPPED)
    return {f'{key}_approximate': result[key] for key in ('train_loss', 'validation_loss')}


def run_modern(folder: Path) -> Result:
    """RMS norm, rotary positions, SwiGLU, grouped queries, QK norm, windows, microbatches."""
    return train_model(folder, MODERN)


def run_experts(folder: Path) -> Result:
    """Routed experts beside a shared one."""
    return train_model(folder, EXPERTS)


def run_isolate(folder: Path) -> Result:
    """Packed documents that do not attend to each other."""
    return train_model(folder, ISOLATE)


def run_lora(folder: Path) -> Result:
    """Adapters on every matrix of a trained model."""
    train_model(folder / 'pretrained', {})
    return train_model(folder / 'adapted', LORA | {INIT_FROM: str(folder / 'pretrained' / 'run')})


def run_classify(folder: Path) -> Result:
    """A classification task, trained from random parameters with dropout."""
    return train_model(folder, CLASSIFY)


def run_mup(folder: Path) -> Result:
    """Maximal update parametrization, at twice the base width."""
    return train_model(folder, MUP)


def run_eight_devices(folder: Path) -> Result:
    """The dense model on a mesh of 4 x 2 devices, FSDP and tensor parallel."""
    return train_model(folder, EIGHT_DEVICES)


def run_resumed(folder: Path) -> Result:
    """The dense model, stopped after one step and resumed from the checkpoint."""
    config = make_config(folder, {})
    with ignore_names(), mock.patch.object(Preemption, 'requested', True):
        try:
            trainer.train(config, folder / 'run', log=drop_line, trial=None)
            raise AssertionError('the run did not stop')
        except Preempted:
            pass
    return train_model(folder, {})


def run_text(folder: Path) -> Result:
    """Greedy, sampled and beam-searched text of a model that has been trained a little longer."""
    train_model(folder, LONGER)
    with ignore_names():
        return write_texts(gpt_jax.load(folder / 'run', log=drop_line))


def write_texts(model: Any) -> Result:
    """What the model makes of a known text, and how it continues the prompts."""
    result: Result = {'log_probabilities': model.log_probabilities(' '.join(WORDS[:5])).tolist()}
    for name, options in (('greedy', GREEDY), ('sampled', SAMPLED), ('beam', BEAM)):
        for number, text in enumerate(model.generate(list(PROMPTS), **options)):
            result[f'{name}_{number}_text'] = text.text
            result[f'{name}_{number}_tokens'] = [int(token) for token in text.tokens]
    return result


def run_fit(folder: Path) -> Result:
    """Three approaches to the optimal split, with bootstrap intervals."""
    return run_scaling(folder, FIT)


def run_plan(folder: Path) -> Result:
    """The compute-optimal model for one budget."""
    return run_scaling(folder, PLAN)


def run_plan_sweep(folder: Path) -> Result:
    """A sweep of isoFLOP curves."""
    return run_scaling(folder, PLAN_SWEEP)


def run_compare(folder: Path) -> Result:
    """The compute multiplier of one set of runs over another."""
    return run_scaling(folder, COMPARE)


def run_seeds(folder: Path) -> Result:
    """The first step where names count: initial parameters and the order of data of a seed.

    Legitimately changes if a module of the model, or a word that goes into the fingerprint of the
    data, is renamed on purpose.
    """
    result: Result = {}
    for name, changes in (('dense', {}), ('classification', CLASSIFY)):
        found = train_model(folder / name, changes | FIRST_STEP, named=True)
        result |= {f'{name}_{key}': value for key, value in found.items()}
    return result


CASES: dict[str, Callable[[Path], Result]] = {
    'dense': run_dense,
    'clipped': run_clipped,
    'modern': run_modern,
    'experts': run_experts,
    'isolate': run_isolate,
    'lora': run_lora,
    'classification': run_classify,
    'mup': run_mup,
    'eight_devices': run_eight_devices,
    'resumed': run_resumed,
    'text': run_text,
    'fit': run_fit,
    'plan': run_plan,
    'plan_sweep': run_plan_sweep,
    'compare': run_compare,
    'seeds': run_seeds,
}


def train_model(folder: Path, changes: dict[str, Any], *, named: bool = False) -> Result:
    """Trains, or resumes, the run in `folder/run`.

    Args:
      folder: receives the data and the run.
      changes: config values by dotted key, beside those of `SMALL`.
      named: whether random keys and the order of data follow names, as they do outside of tests.

    Returns:
      The loss of every step, the scores of the validation data, and the SHA-256 of the final state.
    """
    config = make_config(folder, changes)
    with contextlib.nullcontext() if named else ignore_names():
        summary = trainer.train(config, folder / 'run', log=drop_line, trial=None)
    lines = (folder / 'run' / METRICS_FILE).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    scores: Result = {key: [float(summary[key])] for key in VALIDATION if key in summary}
    return {
        'train_loss': [row[TRAIN_LOSS] for row in rows],
        'gradient_norm_approximate': [row[GRADIENT_NORM] for row in rows],
        **scores,
        'state_sha256': hash_arrays(read_state(folder / 'run')),
    }


def make_config(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The config of a small run over data that is written to `folder`.

    Raises:
      KeyError: a key that no config has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = to_raw(base_config())
    sources = {SOURCE: write_documents(folder / 'documents.jsonl')}
    if changes.keys() & CLASSIFY.keys():
        sources[TASK_SOURCE] = write_moods(folder / 'moods.jsonl')
    for key, value in (SMALL | sources | changes).items():
        section, _, field = key.rpartition('.')
        target = config[section] if section else config
        if field not in target:
            raise KeyError(key)
        target[field] = value
    return config


def write_documents(path: Path) -> str:
    """Documents of random words, always the same; returns the config's word for them."""
    draw = random.Random(0).random  # random() alone is the same in every version of Python
    lines = []
    for _ in range(80):
        words = [WORDS[int(draw() * len(WORDS))] for _ in range(10 + int(draw() * 40))]
        lines.append(json.dumps({'text': ' '.join(words)}) + '\n')
    path.write_text(''.join(lines))
    return f'files:{path}'


def write_moods(path: Path) -> str:
    """Texts whose last word tells their mood; returns the config's word for them."""
    moods = [('bad', 'it was dull'), ('good', 'it was fun')]
    rows = [{'text': f'no. {n}: {moods[n % 2][1]}', 'mood': moods[n % 2][0]} for n in range(96)]
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return f'files:{path}'


def read_state(run: Path) -> list[np.ndarray]:
    """Parameters and moments of the newest checkpoint, whatever they are called; no scalars."""
    (metadata,) = run.glob('**/_METADATA')  # in the folder that Orbax wrote
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = reader.metadata(metadata.parent).item_metadata.tree
        types = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
        tree = reader.restore(metadata.parent, args=ocp.args.PyTreeRestore(restore_args=types))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if np.ndim(leaf)]


def hash_arrays(arrays: list[np.ndarray]) -> str:
    """SHA-256 over dtype, shape and bytes of every array, independent of their order."""
    hashes = []
    for array in arrays:
        header = f'{array.dtype} {array.shape} '.encode()
        hashes.append(hashlib.sha256(header + array.tobytes()).digest())
    return hashlib.sha256(b''.join(sorted(hashes))).hexdigest()


def run_scaling(folder: Path, command: tuple[str, ...]) -> Result:
    """Every number of the JSON that a scaling command writes, by its path."""
    path = folder / 'result.json'
    arguments = [word.format(**CSV_FILES) for word in command]
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main([*arguments, JSON_FLAG.format(path=path)])
    return flatten_numbers(json.loads(path.read_text()))


def flatten_numbers(value: Any, path: str = '') -> Result:
    """The numbers of nested dictionaries by path; those of nested lists together; no strings."""
    if isinstance(value, dict):
        flat: Result = {}
        for key in value:
            flat |= flatten_numbers(value[key], f'{path}/{key}' if path else key)
        return flat
    numbers = list(iterate_numbers(value))
    return {path: numbers} if numbers else {}


def iterate_numbers(value: Any) -> Iterator[float]:
    """The numbers in lists and dictionaries, depth first."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from iterate_numbers(item)
    elif isinstance(value, int | float):
        yield float(value)


@contextlib.contextmanager
def ignore_names() -> Iterator[None]:
    """Makes random keys and the order of data independent of names in the code.

    Flax folds the path of module names into a random key; here it is the number of the path, in the
    order in which paths are first used. A run traces the initialization before all else, and in one
    thread, so this order is that of the declarations. The random key of an adapter folds in the
    CRC-32 of its parameter's path; here it is the same for all adapters. XLA compiles every
    operation by itself.
    """
    numbers: dict[tuple[Any, ...], int] = {}

    def fold_in_number(key: Any, path: tuple[Any, ...]) -> Any:
        return jax.random.fold_in(key, numbers.setdefault(path, len(numbers))) if path else key

    def get_options_without_fusion(*arguments: Any, **options: Any) -> Any:
        flags = (options.pop('env_options_overrides', None) or {}) | WITHOUT_FUSION
        return get_options(*arguments, env_options_overrides=flags, **options)

    seed, get_options = grain.MapDataset.seed, compiler.get_compile_options
    with (
        mock.patch.object(compiler, 'get_compile_options', get_options_without_fusion),
        mock.patch.object(scope, '_fold_in_static', fold_in_number),
        mock.patch.object(grain.MapDataset, 'seed', lambda self, _: seed(self, DATA_SEED)),
        mock.patch.object(zlib, 'crc32', return_value=0),
    ):
        yield


def drop_line(line: str) -> None:
    """Takes the place of a printer of messages."""
    del line
