"""Memory, time and cost of a run on a machine that is not attached: one config, or a search."""

import dataclasses
import math
from typing import Any

from gpt_jax.core.config import AUTO, Config, RawConfig, parse_config
from gpt_jax.core.errors import UserError
from gpt_jax.core.formatting import format_bytes
from gpt_jax.core.progress import LogFn
from gpt_jax.parallel.rules import LOGICAL_AXIS_RULES
from gpt_jax.preflight import splash_kernels, topology
from gpt_jax.preflight.compile_step import compile_step, parse_compiler_options
from gpt_jax.preflight.estimate import estimate_step
from gpt_jax.preflight.preflight_report import format_report, make_report
from gpt_jax.preflight.search import find_changed_fields, rank_candidates
from gpt_jax.preflight.topology import Machine

SEARCH_CANDIDATES = 4  # candidates of a search that must fit before it ends
# GPT-2's, used if neither the model nor the tokenizer gives the size, since no text is read here.
DEFAULT_VOCAB_SIZE = 50_257


def run_preflight(
    raw_config: RawConfig, topology_name: str, price: float | None, options: str | None, log: LogFn
) -> dict[str, Any]:
    """Compile the training step of a config for a machine and report memory, time and cost.

    Args:
      topology_name: name of the machine, such as 'v5p:8x8x16'.
      price: US dollars per chip-hour; None: the list price.
      options: compiler options, 'xla_NAME=VALUE,...'.

    Returns:
      The report (preflight_report.make_report).
    """
    machine = topology.parse_machine(topology_name)
    devices = topology.make_devices(machine)
    config = fit_batch_size(prepare_config(raw_config, machine, log), machine, log)
    report = compile_and_report(config, machine, devices, price, parse_compiler_options(options))
    for line in format_report(report):
        log(line)
    return report


def prepare_config(raw_config: RawConfig, machine: Machine, log: LogFn) -> Config:
    """Parse a config, with a vocabulary size and an attention kernel that can be compiled here."""
    config = parse_config(raw_config, vocab_size=1)
    if config.model.vocab_size == 1:
        tokenizer = str(raw_config['data']['tokenizer'])
        vocab_size = 256 if tokenizer == 'bytes' else DEFAULT_VOCAB_SIZE
        if tokenizer.startswith('bpe:'):
            vocab_size = int(tokenizer[4:])
        config = parse_config(raw_config, vocab_size=vocab_size)
    kernel = config.model.attention_kernel
    if not machine.is_tpu and kernel != 'chunked':
        log(f'{kernel} attention compiles only on its own device; chunked is counted instead')
        model_config = dataclasses.replace(config.model, attention_kernel='chunked')
        config = dataclasses.replace(config, model=model_config)
    return config


def fit_batch_size(config: Config, machine: Machine, log: LogFn) -> Config:
    """Round the batch size to a multiple of the devices that share it.

    This applies only to a mesh with an automatic axis that shares the batch.
    """
    sizes, batch_axes = config.mesh.sizes, LOGICAL_AXIS_RULES['B']
    if config.mesh.strategy == AUTO or 0 not in (sizes[axis] for axis in batch_axes):
        return config
    other_sizes = [max(1, size) for axis, size in sizes.items() if axis not in batch_axes]
    shards = machine.chips // math.prod(other_sizes)
    if not shards:
        return config
    batch_size, eval_batch_size = (
        max(1, round(size / shards)) * shards
        for size in (config.train.batch_size, config.train.evaluation_batch_size)
    )
    if batch_size != config.train.batch_size:
        log(
            f'train.batch_size={config.train.batch_size} is not a multiple of the {shards} '
            f'devices that share it; the report is for {batch_size}'
        )
    train = dataclasses.replace(
        config.train, batch_size=batch_size, eval_batch_size=eval_batch_size
    )
    return dataclasses.replace(config, train=train)


def compile_and_report(
    config: Config,
    machine: Machine,
    devices: list[Any],
    price: float | None,
    options: dict[str, str],
) -> dict[str, Any]:
    """Compile the training step and return the report."""
    step = compile_step(config, machine, devices, options)
    if not step.text:
        return make_report(config, machine, step, None, price)
    kernels: dict[str, splash_kernels.KernelCode] = {}
    if machine.is_tpu and config.model.attention_kernel == 'splash':
        segments = config.data.packing == 'isolate'
        kernels = splash_kernels.compile_kernels(
            config.model, machine.generation, machine.chip.cores, segments
        )
    estimate = estimate_step(step, config, machine, kernels)
    return make_report(config, machine, step, estimate, price)


def run_search(
    raw_config: RawConfig,
    topology_name: str,
    price: float | None,
    options: str | None,
    log: LogFn,
    count: int | None = None,
) -> dict[str, Any]:
    """Compile the most promising candidates and rank those that fit by the time of a step.

    Args:
      count: candidates that must fit; at most twice as many, plus two, are compiled.

    Returns:
      The reports, the fastest first, and the numbers of candidates pruned and not compiled.

    Raises:
      UserError: no candidate fits.
    """
    count = SEARCH_CANDIDATES if count is None else count
    if count < 1:
        raise UserError(f'--candidates: must be positive, got {count}')
    machine = topology.parse_machine(topology_name)
    devices = topology.make_devices(machine)
    config = prepare_config(raw_config, machine, log)
    batch_size, chips = config.train.batch_size, machine.chips
    if batch_size % chips:
        nearest = max(1, round(batch_size / chips)) * chips
        log(
            f'train.batch_size={batch_size} is not a multiple of {chips} chips; '
            f'{nearest} is, and allows more candidates'
        )
    candidates, pruned = rank_candidates(config, machine)
    log(
        f'{len(candidates)} of {len(candidates) + pruned} candidates may fit by closed forms; '
        f'the best of them are compiled, until {count} fit'
    )
    reports: list[dict[str, Any]] = []
    compiler_options = parse_compiler_options(options)
    underestimate = 1.0  # largest factor so far by which the closed form was too small
    for candidate in candidates:
        fitting = sum(report['fits'] for report in reports)
        if fitting == count or len(reports) == 2 * count + 2:
            break
        if candidate.bytes * underestimate > machine.chip.memory_bytes:
            continue
        changed_fields = find_changed_fields(config, candidate.changes)
        flags = ' '.join(f'--config.{name}={value}' for name, value in changed_fields.items())
        report = compile_and_report(candidate.config, machine, devices, price, compiler_options)
        reports.append(report | {'flags': flags})
        if report['fits']:
            result = f'{report["seconds_per_step"] * 1e3:.4g} ms'
        else:
            result = f'lacks {format_bytes(report["short_bytes"])}'
            needed = machine.chip.memory_bytes + report['short_bytes']
            underestimate = max(underestimate, needed / candidate.bytes)
        log(f'{len(reports)}: {result:>14}  {flags or "the config itself"}')
    ranked = [report for report in reports if report['fits']]
    ranked.sort(key=lambda report: report['seconds_per_step'])
    if not ranked:
        raise UserError(
            f'--search: no compiled candidate fits {machine.name}; '
            'use more chips, a smaller model or a smaller train.batch_size'
        )
    log('the fastest that fits:')
    for line in format_report(ranked[0]):
        log(line)
    log(f'use it with: {ranked[0]["flags"]}')
    return {
        'best': ranked[0],
        'ranked': ranked,
        'pruned': pruned,
        'not_compiled': len(candidates) - len(reports),
    }
