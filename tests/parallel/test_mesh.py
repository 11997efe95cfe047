"""Is a wrong mesh refused with one that works, and is a mesh that is chosen a good one?"""

from types import SimpleNamespace

import numpy as np
import pytest

from gpt_jax import assemble, layout
from gpt_jax.errors import UserError
from gpt_jax.parallel.mesh import Demands, MeshConfig, Needs, automatic
from gpt_jax.parallel.rules import AXES


def config(**fields):
    return MeshConfig(**dict.fromkeys(AXES, 1) | {'strategy': 'replicated', 'long': 'ring', 'cpu_devices': 0} | fields)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'data': 8, 'tensor': 2}, 'mesh: data 8 x tensor 2 makes 16 devices, but there are 8; the nearest mesh that '
         'works: --config.mesh.data=4 --config.mesh.tensor=2'),
        ({'data': 1, 'tensor': 8}, 'mesh.tensor: mesh.tensor 8 does not divide model.heads, 4; the nearest mesh that '
         'works: --config.mesh.data=2 --config.mesh.tensor=4'),
        ({'data': 1, 'pipeline': 4, 'tensor': 2}, 'mesh.pipeline: mesh.pipeline 4 does not divide model.layers, 2; the '
         'nearest mesh that works: --config.mesh.data=2 --config.mesh.pipeline=2 --config.mesh.tensor=2'),
        ({'data': 1, 'context': 8, 'tensor': 1}, 'mesh.context: mesh.context 8, two parts each, does not '
         'divide model.context, 24'),
        ({'data': 0, 'tensor': 3}, 'mesh.tensor: mesh.tensor 3 does not divide model.heads, 4; the nearest mesh that '
         'works: --config.mesh.data=2 --config.mesh.tensor=4'),
        ({'data': 2, 'expert': 4}, 'train.batch: 12 sequences do not divide over 8 devices'),
        ({'data': 1, 'pipeline': 1, 'tensor': 4, 'context': 2, 'long': 'all_to_all'},
         'mesh.long: all_to_all gives each of the 2 devices of mesh.context some of 1 heads'),
    ],
)  # fmt: skip
def test_a_mesh_that_does_not_fit_is_refused_with_the_nearest_that_does(settings, fields, message):
    several = {f'mesh.{name}': value for name, value in fields.items()}
    model = {'model.context': 24 if fields.get('context') == 8 else 16}
    batch = {'train.batch': 12 if 'expert' in fields else 8}
    experts = {'model.feedforward': 'experts', 'model.experts': 4} if 'expert' in fields else {}
    with pytest.raises(UserError) as error:
        assemble.devices(settings({'model.vocab_multiple': 8} | several | model | batch | experts))
    assert str(error.value).startswith(f'config.{message}')
    assert '\n' not in str(error.value)


def test_where_no_mesh_takes_all_devices_the_nearest_leaves_some_out(settings):
    with pytest.raises(UserError, match=r'works: --config\.mesh\.data=7 --config\.mesh\.tensor=1$'):
        assemble.devices(settings({'mesh.data': 0, 'mesh.tensor': 3, 'train.batch': 7}))


def test_an_axis_that_would_spread_nothing_is_refused(settings):
    with pytest.raises(UserError, match=r'mesh\.fsdp: 8, but the strategy replicated spreads no weights'):
        assemble.devices(settings({'mesh.data': 1, 'mesh.fsdp': 8}))


def test_two_automatic_axes_are_refused():
    with pytest.raises(UserError, match='only one of data and tensor can be 0'):
        config(data=0, tensor=0)


DEMANDS = Demands(batches={'train.batch': 64}, dims={'H': 16, 'G': 4, 'F': 64, 'N': 8, 'L': 1024})


@pytest.mark.parametrize(
    ('needs', 'count', 'batch', 'expected'),
    [
        (Needs(state=10, memory=100), 8, 64, {'data': 8}),  # small: nothing is spread
        (Needs(state=10, memory=0), 8, 64, {'data': 8}),
        (Needs(state=150, memory=100), 8, 64, {'data': 2, 'fsdp': 4}),  # as little as lets it take half
        (Needs(state=10_000, memory=100), 8, 64, {'fsdp': 8}),  # it never fits: all that there is
        (Needs(state=10, memory=100), 64, 16, {'data': 16, 'tensor': 4}),  # fewer sequences than devices
    ],
)
def test_auto_takes_the_plainest_mesh_that_fits(needs, count, batch, expected):
    demands = DEMANDS._replace(batches={'train.batch': batch})
    chosen, why = automatic(config(strategy='auto', data=0), demands, needs, count)
    assert {axis: size for axis, size in chosen.sizes.items() if size > 1} == expected
    assert chosen.strategy == ('fsdp' if expected.get('fsdp') else 'replicated')
    assert '\n' not in why
    assert all(f'{axis} {size}' in why for axis, size in expected.items())


def test_auto_keeps_what_is_given():
    given = config(strategy='auto', data=0, pipeline=2, tensor=2)
    chosen, _ = automatic(given, DEMANDS, Needs(state=10, memory=100), 8)
    assert {axis: size for axis, size in chosen.sizes.items() if size > 1} == {'data': 2, 'pipeline': 2, 'tensor': 2}
    with pytest.raises(UserError, match='auto finds no mesh of 8 devices with tensor 3'):
        automatic(config(strategy='auto', data=0, tensor=3), DEMANDS, Needs(state=10, memory=100), 8)


def test_the_ring_leaves_no_kernel_out(settings):
    with pytest.raises(UserError, match=r'mesh\.long: ring attends with a kernel of its own'):
        assemble.devices(settings({'mesh.context': 2, 'model.attention_kernel': 'splash'}))


def test_auto_builds_and_says_why(settings):
    program = assemble.build(settings({'mesh.strategy': 'auto', 'mesh.data': 0}))
    assert program.mesh.size == 8
    assert 'data 8' in program.why


def spread(processes, **sizes):
    """A mesh of made-up devices, equally many of each process."""
    shape = [sizes.get(axis, 1) for axis in AXES]
    count = int(np.prod(shape))
    devices = np.array([SimpleNamespace(process_index=n * processes // count) for n in range(count)], object)
    return SimpleNamespace(devices=devices.reshape(shape), shape=dict(zip(AXES, shape, strict=True)))


@pytest.mark.parametrize(
    ('processes', 'sizes', 'expected'),
    [
        (4, {'data': 4}, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (2, {'data': 2, 'fsdp': 4}, [(0, 2), (1, 2)]),
        (2, {'tensor': 4}, [(0, 1), (0, 1)]),  # both read all
        (4, {'data': 2, 'context': 4}, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        (4, {'data': 2, 'pipeline': 2, 'tensor': 2}, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ],
)
def test_each_process_reads_the_rows_that_its_devices_take(processes, sizes, expected):
    mesh = spread(processes, **sizes)
    assert [layout.part_of(mesh, process) for process in range(processes)] == expected
