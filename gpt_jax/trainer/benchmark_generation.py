"""Benchmark of generation: prefill and decoding speed, compared to the memory bandwidth.

A decoding step reads all weights from memory, whether for one sequence or for many, so it cannot
take less time than the bytes it reads divided by the memory bandwidth: the bandwidth bound. The
weights are untrained; no number here depends on their values.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.core import errors, files
from gpt_jax.core.config import Config, ModelConfig, RawConfig
from gpt_jax.core.hardware import find_chip
from gpt_jax.core.progress import LogFn
from gpt_jax.inference import batching, options, placement, sampling
from gpt_jax.inference.batching import GenerationRequest, TokenizedPrompt
from gpt_jax.inference.decode import InferenceModel
from gpt_jax.inference.engine import DecodeEngine, make_engine
from gpt_jax.model import kv_cache, weights
from gpt_jax.train.build import declare_params, init_params

REPEATS = 3  # the best is reported: other load on the machine can only slow it down
# The error to raise for the exit code of a child process.
ERRORS: Mapping[int, type[Exception]] = {
    errors.EXIT_BAD_INPUT: errors.UserError,
    errors.EXIT_FAILED: errors.CheckFailed,
    errors.EXIT_OUT_OF_MEMORY: errors.OutOfMemory,
    errors.EXIT_DISK_FULL: errors.DiskFull,
    errors.EXIT_RESUMABLE: errors.Preempted,
}
ERROR_PREFIX = 'run.py: '  # of the child's error line for such an exit code


def measure_generation(raw_config: RawConfig, config: Config, log: LogFn) -> dict[str, Any]:
    """Time prefill and decoding for each of benchmark.batch_sizes.

    Args:
      raw_config: the run's config as nested dicts.
      config: the same config, parsed.
      log: receives lines for the user.

    Returns:
      A flat dict whose keys begin with 'generation_', with these numbers for each batch size:
      prefill_tokens_per_second and decode_tokens_per_second, summed over all sequences;
      first_token_seconds, from a prompt on the device to the first new token; bandwidth_share,
      the bandwidth bound divided by the time of a decoding step. The bound counts the weights
      that every token reads, the experts that the batch chooses if none is favored, and the
      filled part of the KV cache.
    """
    if jax.default_backend() == 'cpu' and jax.device_count() > 1:
        return _measure_in_child(raw_config, log)
    benchmark = config.benchmark
    section = dataclasses.asdict(config.model)
    model_config = placement.make_inference_config(section, config.model.vocab_size)
    prompt_tokens = min(benchmark.prompt_tokens, model_config.context // 2)
    new_tokens = min(benchmark.new_tokens, model_config.context - prompt_tokens)
    engine = _make_engine(model_config, benchmark.weight_dtype)
    bandwidth, source = _find_bandwidth()
    results: dict[str, Any] = {
        'prompt': prompt_tokens,
        'new_tokens': new_tokens,
        'weights': benchmark.weight_dtype,
        'memory_bandwidth': bandwidth,
        'memory_bandwidth_source': source,
    }
    for batch in benchmark.batch_sizes:
        prefill, first, step = _time_generation(engine, batch, prompt_tokens, new_tokens)
        bound = _count_bytes_read(engine, batch, prompt_tokens + new_tokens // 2) / bandwidth
        results |= {
            f'prefill_tokens_per_second_batch{batch}': batch * prompt_tokens / prefill,
            f'first_token_seconds_batch{batch}': first,
            f'decode_tokens_per_second_batch{batch}': batch / step,
            f'bandwidth_share_batch{batch}': bound / step,
        }
        log(
            f'{config.name}: batch {batch}: {batch / step:.1f} new tokens/s, '
            f'{bound / step:.0%} of the memory bandwidth'
        )
    return {f'generation_{name}': value for name, value in results.items()}


def _measure_in_child(raw_config: RawConfig, log: LogFn) -> dict[str, Any]:
    """Measure in a child process with one CPU device that uses all cores.

    Training is faster on several CPU devices, generation on one.

    Raises:
      One of ERRORS, with the child's message.
    """
    log('generation is measured in its own process, on one CPU device with all cores')
    with tempfile.TemporaryDirectory(prefix='gpt_jax_') as folder:
        config_path, output = Path(folder) / 'config.py', Path(folder) / 'output.json'
        content = json.dumps(single_device_config(raw_config))
        config_path.write_text(
            'import json\n\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n'
            f'    return ConfigDict(json.loads({content!r}))\n'
        )
        flags = ('--mode=benchmark', f'--config={config_path}', f'--benchmark_output={output}')
        _run_child([sys.executable, sys.argv[0], *flags], log)
        results = files.read_json(output)
    return {name: value for name, value in results.items() if name.startswith('generation_')}


def single_device_config(raw_config: RawConfig) -> RawConfig:
    """Return the config of a benchmark of generation alone, with every mesh axis of size 1."""
    mesh = raw_config['mesh']
    ones = {axis: 1 if isinstance(size, int) else size for axis, size in mesh.items()}
    return raw_config | {
        'mesh': ones | {'strategy': 'replicated'},
        'model': raw_config['model'] | placement.INFERENCE_OVERRIDES,
        # A microbatch size may not divide the rows of a single device.
        'train': raw_config['train'] | {'microbatch_size': 0},
        'benchmark': raw_config['benchmark'] | {'steps': 0},
    }


def _run_child(command: list[str], log: LogFn) -> None:
    """Run run.py; log its standard error line by line, and raise the error of its exit code."""
    message = ''
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors='replace'
    ) as child:
        try:
            for line in child.stderr or ():
                if line.startswith(ERROR_PREFIX):
                    message = line.removeprefix(ERROR_PREFIX).strip()
                else:
                    log(line.rstrip('\n'))
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        error = ERRORS.get(child.returncode, errors.CheckFailed)
        raise error(
            message or f'generation was not measured: its process exited with {child.returncode}'
        )


def _make_engine(model_config: ModelConfig, weight_dtype: str) -> DecodeEngine:
    """Make the engine of an untrained model on one device."""
    devices = placement.make_placement(model_config, data=1, fsdp=1)
    params = jax.jit(lambda: weights.unbox(init_params(model_config, jax.random.key(0))))()
    return make_engine(
        InferenceModel(model_config, devices.policy),
        placement.prepare_params(params, model_config, weight_dtype),
        None,
        put_rows=lambda tree: jax.device_put(tree, devices.row_sharding),
        replicate=lambda tree: jax.device_put(tree, devices.replicated),
    )


def _time_generation(
    engine: DecodeEngine, batch: int, prompt_tokens: int, new_tokens: int
) -> tuple[float, float, float]:
    """Return the seconds of prefill, of prefill with the first token, and of one decoding step.

    Each is the best of a few trials.
    """
    model_config = engine.model.config
    chosen = options.make_options({'max_new_tokens': new_tokens})
    shape = batch, prompt_tokens
    prompts_BL = np.random.default_rng(0).integers(0, model_config.vocab_size, shape)
    requests = [
        GenerationRequest(
            TokenizedPrompt('', ids_L.astype(np.int32)),
            max_length=prompt_tokens + new_tokens,
            min_length=0,
            seed=sampling.derive_seed(0, number, 0),
        )
        for number, ids_L in enumerate(prompts_BL)
    ]
    is_end_V = np.zeros(model_config.vocab_size, bool)  # no ends: all sequences get the same length
    arrays = batching.make_batch(
        requests, context=model_config.context, chunk=1, row_shards=1, is_end_V=is_end_V
    )
    plan, settings = sampling.make_sampling_plan(chosen), engine.put_settings(arrays.settings)
    values = engine.replicate(sampling.collect_option_values(chosen, plan))
    seconds = []
    for _ in range(1 + REPEATS):  # the first trial compiles
        prefill_BL, count_B, sequences = jax.block_until_ready(
            engine.put_rows((arrays.prefill_BL, arrays.count_B, arrays.sequences))
        )
        times = [time.perf_counter()]
        state = engine.decoding.prefill(
            engine.params, prefill_BL, count_B, sequences, cache_shape=arrays.cache_shape
        )
        for steps in (0, 1, new_tokens - 1):
            if steps:
                state = engine.decoding.run(
                    engine.params, state, settings, values, np.int32(steps), plan=plan
                )
            jax.block_until_ready(state)
            times.append(time.perf_counter())
        began, prefilled, first_token, last_token = times
        step_seconds = (last_token - first_token) / max(1, new_tokens - 1)
        seconds.append((prefilled - began, first_token - began, step_seconds))
    prefill, first, step = (min(trials) for trials in zip(*seconds[1:], strict=True))
    return prefill, first, step


def _count_bytes_read(engine: DecodeEngine, batch: int, length: int) -> float:
    """Count the bytes that one decoding step reads: weights, and the cache of `length` tokens.

    Of a layer's E experts, only those that some token of the batch chooses are read. With X
    choices per token and no favored expert, that is E (1 - (1 - X / E)^batch) on average.
    """
    model_config = engine.model.config
    # Only one row per token is read from these tables.
    tables = {'position', 'embedding'} if 'head' in engine.params else {'position'}
    params = {name: part for name, part in engine.params.items() if name not in tables}
    cache = jax.eval_shape(lambda: kv_cache.init_cache(model_config, batch, length, 1).layers)
    total = _count_bytes((params, cache))
    if model_config.feedforward != 'experts':
        return total
    axes = weights.logical_axes(declare_params(model_config))['blocks']
    experts = [
        jax.tree.map(
            lambda letters, part: part if 'E' in letters[:2] else (), axes, params[f'block_{n}']
        )
        for n in range(model_config.layers)
    ]
    unread_share = (1 - model_config.experts_per_token / model_config.experts) ** batch
    return total - unread_share * _count_bytes(experts)


def _count_bytes(tree: Any) -> int:
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


def _find_bandwidth() -> tuple[float, str]:
    """Return the memory bandwidth of one device in bytes/s, and the source of the number."""
    chip = find_chip(jax.devices()[0].device_kind)
    if chip is not None:
        return chip.memory_bandwidth, f'data sheet of {chip.device_kinds[0]}'
    pairs = 32  # of matrices of 8 MiB: together larger than the caches
    shapes = ((1024, 2048), (2048, 1024))
    matrices = jax.jit(
        lambda: [tuple(jnp.full(shape, 1e-3) for shape in shapes) for _ in range(pairs)]
    )()

    def multiply(x: jax.Array, matrices: Any) -> jax.Array:
        for up, down in matrices:
            x = x @ up @ down
        return x

    multiply_jit, x = jax.jit(multiply), jnp.ones((1, 1024))
    jax.block_until_ready(multiply_jit(x, matrices))
    seconds = float('inf')
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(multiply_jit(x, matrices))
        seconds = min(seconds, time.perf_counter() - began)
    size = sum(a.nbytes for a in jax.tree.leaves(matrices))
    return size / seconds, f'measured: a vector through {2 * pairs} matrices of 8 MiB'
