"""What will this config need and cost on that machine? Its step compiled for it, without it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from gpt_jax import assemble
from gpt_jax.assemble import Settings
from gpt_jax.preflight import kernels, program, topology
from gpt_jax.preflight.estimate import estimate
from gpt_jax.preflight.report import report
from gpt_jax.preflight.topology import Machine
from gpt_jax.preflight.view import lines

VOCABULARY = 50_257  # GPT-2's, where neither model nor tokenizer names one: no text is read here


def preflight(config: dict[str, Any], word: str, price: float | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Compiles, reads, says; returns the report."""
    one = topology.machine(word)
    devices = topology.devices(one)
    settings = told(config, one, say)
    return measured(settings, one, devices, price, say)


def told(config: dict[str, Any], one: Machine, say: Callable[[str], None]) -> Settings:
    """The config's settings, as far as this machine can compile them."""
    settings = assemble.settings(config, vocab_size=1)
    if settings.model.vocab_size == 1:
        tokenizer = str(config['data']['tokenizer'])
        known = {'bytes': 256}.get(tokenizer, VOCABULARY)
        size = int(tokenizer[4:]) if tokenizer.startswith('bpe:') else known
        settings = assemble.settings(config, vocab_size=size)
    if not one.tpu and settings.model.attention_kernel != 'chunked':
        say(f'{settings.model.attention_kernel} attention runs on its own device only; chunked is counted instead')
        settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, attention_kernel='chunked'))
    return settings


def measured(
    settings: Settings, one: Machine, devices: list[Any], price: float | None, say: Callable[[str], None]
) -> dict[str, Any]:
    made = program.make(settings, one, devices)
    code = {}
    if made.text and one.tpu and settings.model.attention_kernel == 'splash':
        segments = settings.data.packing == 'isolate'
        code = kernels.compiled(settings.model, one.generation, one.chip.cores, segments)
    found = estimate(made, settings, one, code) if made.text else None
    result = report(settings, one, made, found, price)
    for line in lines(result):
        say(line)
    return result
