"""Do activations move equally far at every width and depth? A few steps at each, the slopes, pass or fail, a figure."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax import assemble, files
from gpt_jax.data.prepare import prepare
from gpt_jax.errors import CheckFailed
from gpt_jax.evaluate import coordinates as measured
from gpt_jax.modes import material

STEPS = 5
FACTORS = {'width': (1, 2, 4, 8), 'layers': (1, 2, 4)}  # times the config's base width and base depth


def coordinates(config: dict[str, Any], workdir: Path, say: Callable[[str], None]) -> None:
    """Writes coordinates.json and coordinates.png, .svg into `workdir` and prints the table.

    The widths are 1, 2, 4 and 8 times model.base_width (or model.width), the heads growing with them; the depths are 1,
    2 and 4 times model.base_layers (or model.layers), which mup makes no promise about and is not judged by.

    Raises:
      CheckFailed: some activation's movement depends on the size.
    """
    from gpt_jax.scaling import coordinates as judged

    corpus = prepare(assemble.data_config(config), say)
    name = config['model']['parametrization']
    results = []
    for over in ('width', 'layers'):
        base = config['model'][f'base_{over}'] or config['model'][over]
        sizes = [base * factor for factor in FACTORS[over]]
        moved = []
        for size in sizes:
            say(f'{STEPS} steps at {over} {size:,}')
            moved.append(_moved(_sized(config, over, size), corpus))
        results.append(judged.check(sizes, moved, over, judged=(name, over) != ('mup', 'layers')))
    print('\n'.join(line for result in results for line in judged.lines(result, name)))
    files.write_json(workdir / 'coordinates.json', {'parametrization': name, 'steps': STEPS, 'checks': results})
    for path in (workdir / 'coordinates.json', *judged.plot(results, name, workdir / 'coordinates.png')):
        print(f'  {path}')
    promised = [result for result in results if result['verdict'] != 'not judged']
    print(json.dumps({'parametrization': name, 'passed': all(result['passed'] for result in promised)}))
    failed = [result['over'] for result in promised if not result['passed']]
    if failed:
        raise CheckFailed(f'{name}: how far activations move depends on {" and ".join(failed)}')


def _sized(config: dict[str, Any], over: str, size: int) -> dict[str, Any]:
    """The config at another size, at a constant rate; head_dim stays, so that heads grow with the width."""
    made = copy.deepcopy(config)
    model = made['model']
    head = model['head_dim'] or model['width'] // model['heads']
    for field in ('width', 'layers'):
        model[f'base_{field}'] = model[f'base_{field}'] or model[field]
    model[over] = size
    if over == 'width':
        model.update(heads=max(1, size // head), kv_heads=0, mlp_width=0, head_dim=head if size % head else 0)
    made['optimizer'].update(schedule='constant', warmup_fraction=0.0)
    made['train'].update(steps=STEPS)
    return made


def _moved(config: dict[str, Any], corpus: Any) -> dict[str, float]:
    settings = assemble.settings(config, corpus.vocab_size)
    program = assemble.build(settings)
    state = program.init()
    feed = program.on_devices(material.batches_of(settings, corpus, 0, program.share()))
    look = jax.jit(lambda params, tokens: measured.activations(settings.model, params, tokens))
    tokens = next(material.batches_of(settings, corpus, STEPS, (0, 1)))['inputs']  # a batch that is not trained on
    before = look(program.whole(state), tokens)
    for _ in range(STEPS):
        state, _metrics = program.step(state, next(feed))
    found = measured.moved(before, look(program.whole(state), tokens))
    return {name: float(np.asarray(value)) for name, value in found.items()}
