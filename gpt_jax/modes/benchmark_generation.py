"""How fast does a config's model write on this machine, and how near is that to what its memory allows?

Each new token takes all weights through the processor once, however few texts are written, so the time of a step cannot
be less than the bytes that it reads over the memory's bandwidth: the floor. The weights are those of a model that has
learned nothing; no number here depends on them.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax import assemble, errors, files, inference
from gpt_jax.assemble import Settings
from gpt_jax.generate import batching, options, processors, sampling
from gpt_jax.generate.batching import Prompt, Request
from gpt_jax.generate.decode import Model
from gpt_jax.generate.rounds import Device, device
from gpt_jax.model import cache, weights
from gpt_jax.model.config import ModelConfig

ROUNDS = 3  # the best is quoted: what else the machine does can only make it slower
# What leaves this process with the code that the one of `_alone` left with.
ERRORS: Mapping[int, type[Exception]] = {
    errors.EXIT_BAD_INPUT: errors.UserError,
    errors.EXIT_FAILED: errors.CheckFailed,
    errors.EXIT_OUT_OF_MEMORY: errors.OutOfMemory,
    errors.EXIT_RESUMABLE: errors.Preempted,
}
SAID = 'run.py: '  # begins the line that goes with such a code

# Bytes per second of one device's memory, from the makers' data sheets.
BANDWIDTHS = {
    'NVIDIA H200': 4.8e12,
    'NVIDIA H100 80GB HBM3': 3.35e12,
    'NVIDIA H100 PCIe': 2.0e12,
    'NVIDIA A100-SXM4-80GB': 2.039e12,
    'NVIDIA A100-SXM4-40GB': 1.555e12,
    'TPU v4': 1.2e12,
    'TPU v5 lite': 8.19e11,
    'TPU v5p': 2.765e12,
    'TPU v6 lite': 1.64e12,
}


def measure(config: dict[str, Any], settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Times prefill and decoding at each of benchmark.batches; a flat dict, a number per batch size.

    `settings` are those of `config`.

    prefill_tokens_per_second, decode_tokens_per_second: of all texts together. first_token_seconds: from a prompt on
    the devices to the first new token. bandwidth_share: the floor over the time of a decoding step, where the floor
    counts weights that every token reads, the experts that the batch's tokens choose where no expert is favoured, and
    the part of the cache that is filled.
    """
    model = inference.model_config(_section(settings.model), settings.model.vocab_size)
    prompt = min(settings.benchmark.prompt, model.context // 2)
    tokens = min(settings.benchmark.new_tokens, model.context - prompt)
    if jax.default_backend() == 'cpu' and jax.device_count() > 1:
        return _alone(config, say)
    writer = _device(model, settings.benchmark.weights)
    bandwidth, source = _bandwidth()
    found: dict[str, Any] = {
        'prompt': prompt, 'new_tokens': tokens, 'weights': settings.benchmark.weights,
        'memory_bandwidth': bandwidth, 'memory_bandwidth_source': source,
    }  # fmt: skip
    for batch in settings.benchmark.batches:
        prefill, first, step = _best(writer, batch, prompt, tokens)
        floor = _bytes_read(writer, batch, prompt + tokens // 2) / bandwidth
        found |= {
            f'prefill_tokens_per_second_batch{batch}': batch * prompt / prefill,
            f'first_token_seconds_batch{batch}': first,
            f'decode_tokens_per_second_batch{batch}': batch / step,
            f'bandwidth_share_batch{batch}': floor / step,
        }
        say(f'{settings.name}: batch {batch}: {batch / step:.1f} new tokens/s, {floor / step:.0%} of the floor')
    return {f'generation_{name}': value for name, value in found.items()}


def _section(model: ModelConfig) -> dict[str, Any]:
    return {name: getattr(model, name) for name in ModelConfig.__dataclass_fields__}


def _alone(config: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Several CPU devices suit training, and one that has all cores suits writing: so it is measured by a process that
    has one.

    Raises:
      one of ERRORS, with the line and so with the exit code of that process.
    """
    say('generation is measured in a process of its own, on one CPU device with all cores')
    with tempfile.TemporaryDirectory(prefix='gpt_jax_') as folder:
        given, found = Path(folder) / 'config.py', Path(folder) / 'found.json'
        given.write_text(
            'import json\n\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n'
            f'    return ConfigDict(json.loads({json.dumps(on_one_device(config))!r}))\n'
        )
        flags = ('--mode=benchmark', f'--config={given}', f'--benchmark_output={found}')
        _run([sys.executable, sys.argv[0], *flags], say)
        return {name: value for name, value in files.read_json(found).items() if name.startswith('generation_')}


def on_one_device(config: dict[str, Any]) -> dict[str, Any]:
    """The config of writing alone, by one CPU device: whatever the mesh's axes are, each of them is 1."""
    mesh = {name: 1 if isinstance(value, int) else value for name, value in config['mesh'].items()}
    return config | {
        'mesh': mesh | {'strategy': 'replicated'},
        'model': config['model'] | inference.PLAIN,
        'train': config['train'] | {'microbatch': 0},  # of the share of one of several devices
        'benchmark': config['benchmark'] | {'steps': 0},
    }


def _run(command: list[str], say: Callable[[str], None]) -> None:
    """Runs run.py and passes on what it says, as it comes."""
    last = ''
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors='replace'
    ) as child:
        try:
            for line in child.stderr or ():
                if line.startswith(SAID):
                    last = line.removeprefix(SAID).strip()
                else:
                    say(line.rstrip('\n'))
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        error = ERRORS.get(child.returncode, errors.CheckFailed)
        raise error(last or f'generation was not measured: its process left with {child.returncode}')


def _device(model: ModelConfig, kind: str) -> Device:
    home = inference.home(model, data=1, fsdp=1)
    params = jax.jit(lambda: weights.unbox(assemble.initial(model, jax.random.key(0))))()
    return device(
        Model(model, home.place), inference.for_writing(params, model, kind), None,
        put=lambda tree: jax.device_put(tree, home.rows), spread=lambda tree: jax.device_put(tree, home.shared),
    )  # fmt: skip


def _best(writer: Device, batch: int, prompt: int, tokens: int) -> tuple[float, float, float]:
    """Seconds of (reading the prompts, that and the first token, one step of decoding), each the best of a few."""
    model, chosen = writer.model.config, options.make({'max_new_tokens': tokens})
    ids = np.random.default_rng(0).integers(0, model.vocab_size, (batch, prompt))
    requests = [
        Request(Prompt('', row.astype(np.int32)), prompt + tokens, 0, sampling.own_seed(0, number, 0))
        for number, row in enumerate(ids)
    ]
    ends = np.zeros(model.vocab_size, bool)  # no id ends a text, so all are of one length
    arrays = batching.arrays(requests, context=model.context, chunk=1, ways=1, ends_V=ends)
    plan, fixed = processors.plan(chosen), writer.fixed(arrays)
    values = writer.spread(processors.values(chosen, plan))
    seconds = []
    for _ in range(1 + ROUNDS):  # the first compiles
        read, count, texts = jax.block_until_ready(writer.put((arrays.read_BL, arrays.count_B, arrays.texts)))
        times = [time.perf_counter()]
        state = writer.plain.begin(writer.params, read, count, texts, sizes=arrays.sizes)
        for steps in (0, 1, tokens - 1):
            if steps:
                state = writer.plain.run(writer.params, state, fixed, values, np.int32(steps), plan=plan)
            jax.block_until_ready(state)
            times.append(time.perf_counter())
        seconds.append((times[1] - times[0], times[2] - times[0], (times[3] - times[2]) / max(1, tokens - 1)))
    prefill, first, step = (min(each) for each in zip(*seconds[1:], strict=True))
    return prefill, first, step


def _bytes_read(writer: Device, batch: int, length: int) -> float:
    """What one step takes from memory: weights that are multiplied with, and the cache of `length` tokens.

    Of a layer's E experts those that a token of the batch chose: with X choices of a token and none of the experts
    favoured, E x (1 - (1 - X / E)^batch) of them on average; X for one token, and never more than there are choices.
    """
    model = writer.model.config
    rows = {'position'} | ({'embedding'} if 'head' in writer.params else set())  # of which a row each is read
    read = {name: part for name, part in writer.params.items() if name not in rows}
    kept = jax.eval_shape(lambda: cache.empty(model, batch, length, 1).layers)
    if model.feedforward != 'experts':
        return _bytes((read, kept))
    letters = weights.letters(assemble.declarations(model))['blocks']
    layers = (read[f'block_{n}'] for n in range(model.layers))
    experts = [jax.tree.map(lambda word, part: part if 'E' in word[:2] else (), letters, layer) for layer in layers]
    idle = (1 - model.experts_per_token / model.experts) ** batch
    return _bytes((read, kept)) - idle * _bytes(experts)


def _bytes(tree: Any) -> int:
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


def _bandwidth() -> tuple[float, str]:
    """Bytes per second of one device's memory, and where the number is from."""
    kind = jax.devices()[0].device_kind
    for name, bandwidth in BANDWIDTHS.items():
        if kind.startswith(name):
            return bandwidth, f'data sheet of {name}'
    pairs = 32  # of matrices of 8 MiB: together more than caches hold
    shapes = ((1024, 2048), (2048, 1024))
    matrices = jax.jit(lambda: [tuple(jnp.full(shape, 1e-3) for shape in shapes) for _ in range(pairs)])()

    def read(x: jax.Array, matrices: Any) -> jax.Array:
        for up, down in matrices:
            x = x @ up @ down
        return x

    through, x = jax.jit(read), jnp.ones((1, 1024))
    jax.block_until_ready(through(x, matrices))
    best = float('inf')
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(through(x, matrices))
        best = min(best, time.perf_counter() - began)
    size = sum(a.nbytes for a in jax.tree.leaves(matrices))
    return size / best, f'measured: a vector through {2 * pairs} matrices of 8 MiB'
