"""What will this config need and cost on that machine? Its step compiled for it, without it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from gpt_jax import assemble
from gpt_jax.assemble import Settings
from gpt_jax.errors import UserError
from gpt_jax.parallel.mesh import AUTO
from gpt_jax.parallel.rules import CUT
from gpt_jax.preflight import kernels, program, topology
from gpt_jax.preflight.estimate import estimate
from gpt_jax.preflight.report import report
from gpt_jax.preflight.search import candidates, differing
from gpt_jax.preflight.topology import Machine
from gpt_jax.preflight.view import lines, size

COMPILED = 4  # of a search's candidates, those that look fastest before: the fits among them
VOCABULARY = 50_257  # GPT-2's, where neither model nor tokenizer names one: no text is read here


def preflight(
    config: dict[str, Any], word: str, price: float | None, options: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Compiles, reads, says; returns the report.

    Args:
      word: the machine. price: of a chip for an hour; None: the list price. options: of the compiler, NAME=VALUE,...
    """
    one = topology.machine(word)
    devices = topology.devices(one)
    settings = divided(told(config, one, say), one, say)
    return measured(settings, one, devices, price, program.options(options), say)


def told(config: dict[str, Any], one: Machine, say: Callable[[str], None]) -> Settings:
    """The config's settings, as far as this machine can compile them."""
    settings = assemble.settings(config, vocab_size=1)
    if settings.model.vocab_size == 1:
        tokenizer = str(config['data']['tokenizer'])
        known = {'bytes': 256}.get(tokenizer, VOCABULARY)
        words = int(tokenizer[4:]) if tokenizer.startswith('bpe:') else known
        settings = assemble.settings(config, vocab_size=words)
    if not one.tpu and settings.model.attention_kernel != 'chunked':
        say(f'{settings.model.attention_kernel} attention runs on its own device only; chunked is counted instead')
        settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, attention_kernel='chunked'))
    return settings


def divided(settings: Settings, one: Machine, say: Callable[[str], None]) -> Settings:
    """With a batch that divides over the devices that share it, where an automatic axis makes more of them than it has
    sequences for: the nearest."""
    sizes = settings.mesh.sizes
    if settings.mesh.strategy == AUTO or 0 not in (sizes[axis] for axis in CUT['B']):
        return settings
    rows = one.chips // math.prod(max(1, size) for axis, size in sizes.items() if axis not in CUT['B'])
    if not rows:
        return settings
    batch, scored = (
        max(1, round(one / rows)) * rows for one in (settings.train.batch, settings.train.evaluation_batch)
    )
    if batch != settings.train.batch:
        say(f'train.batch={settings.train.batch} does not divide over {rows} devices; reported is {batch}')
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, batch=batch, evaluate_batch=scored))


def measured(
    settings: Settings,
    one: Machine,
    devices: list[Any],
    price: float | None,
    options: dict[str, str],
    say: Callable[[str], None] | None,
) -> dict[str, Any]:
    made = program.make(settings, one, devices, options)
    code: dict[str, kernels.Code] = {}
    if made.text and one.tpu and settings.model.attention_kernel == 'splash':
        segments = settings.data.packing == 'isolate'
        code = kernels.compiled(settings.model, one.generation, one.chip.cores, segments)
    found = estimate(made, settings, one, code) if made.text else None
    result = report(settings, one, made, found, price)
    if say is not None:
        for line in lines(result):
            say(line)
    return result


def search(
    config: dict[str, Any], word: str, price: float | None, options: str | None, say: Callable[[str], None],
    most: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compiles the candidates that look best, ranks what fits by the time of a step; returns the reports, best first.

    Args:
      most: candidates that are to fit; at most twice as many are compiled.

    Raises:
      UserError: none fits, or none can.
    """
    most = COMPILED if most is None else most
    if most < 1:
        raise UserError(f'--candidates={most}: must be positive')
    one = topology.machine(word)
    devices = topology.devices(one)
    settings = told(config, one, say)
    batch = settings.train.batch
    if batch % one.chips:
        near = max(1, round(batch / one.chips)) * one.chips
        say(f'train.batch={batch} does not divide over {one.chips} chips; {near} would, and leave more to choose from')
    found, pruned = candidates(settings, one)
    total = len(found) + pruned
    say(f'{len(found)} of {total} candidates may fit by closed forms; the best of them are compiled, until {most} fit')
    ranked: list[dict[str, Any]] = []
    larger = 1.0  # than by closed forms, as those that did not fit have shown
    for each in found:
        if sum(other['fits'] for other in ranked) == most or len(ranked) == 2 * most + 2:
            break
        if each.bytes * larger > one.chip.memory:
            continue
        flags = ' '.join(f'--config.{name}={value}' for name, value in differing(settings, each.changes).items())
        result = measured(each.settings, one, devices, price, program.options(options), None) | {'flags': flags}
        ranked.append(result)
        if result['fits']:
            shown = f'{result["seconds_per_step"] * 1e3:.4g} ms'
        else:
            shown = f'lacks {size(result["short_bytes"])}'
            larger = max(larger, (one.chip.memory + result['short_bytes']) / each.bytes)
        say(f'{len(ranked)}: {shown:>14}  {flags or "as the config is"}')
    tried = len(ranked)
    ranked = sorted((each for each in ranked if each['fits']), key=lambda each: each['seconds_per_step'])
    if not ranked:
        raise UserError(f'--search: nothing tried fits {one.name}; take more chips, or a smaller model or train.batch')
    say('the fastest that fits:')
    for line in lines(ranked[0]):
        say(line)
    say(f'take it with: {ranked[0]["flags"]}')
    return {'best': ranked[0], 'ranked': ranked, 'pruned': pruned, 'not_compiled': len(found) - tried}
