"""Meshes: rejected ones come with one that works, and automatic ones suit the run."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpt_jax.core.config import MESH_AXES, MeshConfig
from gpt_jax.core.errors import UserError
from gpt_jax.parallel.mesh import DivisibilityConstraints, MemoryBudget, choose_mesh
from gpt_jax.train import build, mesh_layout


def make_config(**fields):
    defaults = {'strategy': 'replicated', 'context_parallel': 'ring', 'cpu_devices': 0}
    return MeshConfig(**dict.fromkeys(MESH_AXES, 1) | defaults | fields)


def used_axes(config):
    return {axis: size for axis, size in config.sizes.items() if size > 1}


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            {'data': 8, 'tensor': 2},
            'mesh: the product of the axes must be at most the 8 devices, got data 8 x tensor 2 = '
            '16; the nearest mesh that works: --config.mesh.data=4 --config.mesh.tensor=2',
        ),
        (
            {'data': 1, 'tensor': 8},
            'mesh.tensor: must divide model.heads (4), got mesh.tensor 8; the nearest mesh that '
            'works: --config.mesh.data=2 --config.mesh.tensor=4',
        ),
        (
            {'data': 1, 'pipeline': 4, 'tensor': 2},
            'mesh.pipeline: must divide model.layers (2), got mesh.pipeline 4; the nearest mesh '
            'that works: --config.mesh.data=2 --config.mesh.pipeline=2 --config.mesh.tensor=2',
        ),
        (
            {'data': 1, 'context': 8, 'tensor': 1},
            'mesh.context: must divide model.context (24), got mesh.context 8 with two parts each',
        ),
        (
            {'data': 0, 'tensor': 3},
            'mesh.tensor: must divide model.heads (4), got mesh.tensor 3; the nearest mesh that '
            'works: --config.mesh.data=2 --config.mesh.tensor=4',
        ),
        (
            {'data': 2, 'expert': 4},
            'train.batch_size: must be a multiple of the 8 devices that share the batch, got 12',
        ),
        (
            {'data': 1, 'pipeline': 1, 'tensor': 4, 'context': 2, 'context_parallel': 'all_to_all'},
            'mesh.context_parallel: must be ring if the 2 devices of mesh.context do not divide '
            'the 1 heads',
        ),
    ],
)
def test_a_mesh_that_does_not_fit_is_rejected_with_the_nearest_that_does(settings, fields, message):
    config = {'model.vocab_multiple': 8, 'model.context': 24 if fields.get('context') == 8 else 16}
    config |= {f'mesh.{name}': value for name, value in fields.items()}
    if 'expert' in fields:
        experts = {'model.feedforward': 'experts', 'model.experts': 4}
        config |= {'train.batch_size': 12} | experts
    with pytest.raises(UserError) as error:
        build.make_layout(settings(config))
    assert str(error.value).startswith(f'config.{message}')
    assert '\n' not in str(error.value)


def test_the_suggestion_omits_devices_where_no_mesh_uses_all(settings):
    with pytest.raises(UserError, match=r'works: --config\.mesh\.data=7 --config\.mesh\.tensor=1$'):
        build.make_layout(settings({'mesh.data': 0, 'mesh.tensor': 3, 'train.batch_size': 7}))


def test_an_axis_without_effect_is_rejected(settings):
    message = r'mesh\.fsdp: must be 1 with strategy replicated, got 8'
    with pytest.raises(UserError, match=message):
        build.make_layout(settings({'mesh.data': 1, 'mesh.fsdp': 8}))


def test_two_automatic_axes_are_rejected():
    message = r'only one axis can be 0 \(automatic\), got data and tensor'
    with pytest.raises(UserError, match=message):
        make_config(data=0, tensor=0)


def test_ring_attention_with_another_kernel_is_rejected(settings):
    with pytest.raises(UserError, match=r'mesh\.context_parallel: must be all_to_all unless'):
        build.make_layout(settings({'mesh.context': 2, 'model.attention_kernel': 'splash'}))


# mesh.strategy=auto

CONSTRAINTS = DivisibilityConstraints(
    batch_sizes={'train.batch_size': 64}, dim_sizes={'H': 16, 'G': 4, 'F': 64, 'N': 8, 'L': 1024}
)


@pytest.mark.parametrize(
    ('state_bytes', 'device_bytes', 'count', 'batch', 'expected'),
    [
        (10, 100, 8, 64, {'data': 8}),  # small: nothing is sharded
        (10, 0, 8, 64, {'data': 8}),
        (150, 100, 8, 64, {'data': 2, 'fsdp': 4}),  # as little as lets the state take half
        (10_000, 100, 8, 64, {'fsdp': 8}),  # it never fits: as much as possible
        (10, 100, 64, 16, {'data': 16, 'tensor': 4}),  # fewer sequences than devices
    ],
)
def test_auto_chooses_the_simplest_mesh_that_fits(
    state_bytes, device_bytes, count, batch, expected
):
    constraints = CONSTRAINTS._replace(batch_sizes={'train.batch_size': batch})
    budget = MemoryBudget(state_bytes, device_bytes)
    chosen, reason = choose_mesh(make_config(strategy='auto', data=0), constraints, budget, count)
    assert used_axes(chosen) == expected
    assert chosen.strategy == ('fsdp' if expected.get('fsdp') else 'replicated')
    assert '\n' not in reason
    assert all(f'{axis} {size}' in reason for axis, size in expected.items())


def test_auto_keeps_given_axes():
    budget = MemoryBudget(state_bytes=10, device_bytes=100)
    given = make_config(strategy='auto', data=0, pipeline=2, tensor=2)
    chosen, _ = choose_mesh(given, CONSTRAINTS, budget, 8)
    assert used_axes(chosen) == {'data': 2, 'pipeline': 2, 'tensor': 2}
    with pytest.raises(UserError, match='auto found no mesh of 8 devices with tensor 3'):
        choose_mesh(make_config(strategy='auto', data=0, tensor=3), CONSTRAINTS, budget, 8)


def test_auto_builds_a_run_and_explains_the_mesh(settings):
    parts = build.build_trainer_parts(settings({'mesh.strategy': 'auto', 'mesh.data': 0}))
    assert parts.mesh.size == 8
    assert 'data 8' in parts.mesh_reason


# Several processes


def make_fake_mesh(processes, **sizes):
    """A mesh of devices that do not exist, equally many of each process."""
    shape = [sizes.get(axis, 1) for axis in MESH_AXES]
    count = int(np.prod(shape))
    devices = [SimpleNamespace(process_index=n * processes // count) for n in range(count)]
    return SimpleNamespace(
        devices=np.array(devices, object).reshape(shape),
        shape=dict(zip(MESH_AXES, shape, strict=True)),
    )


@pytest.mark.parametrize(
    ('processes', 'sizes', 'expected'),
    [
        (4, {'data': 4}, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (2, {'data': 2, 'fsdp': 4}, [(0, 2), (1, 2)]),
        (2, {'tensor': 4}, [(0, 1), (0, 1)]),  # both read all rows
        (4, {'data': 2, 'context': 4}, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        (4, {'data': 2, 'pipeline': 2, 'tensor': 2}, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ],
)
def test_each_process_reads_the_rows_of_its_devices(processes, sizes, expected):
    mesh = make_fake_mesh(processes, **sizes)
    shards = [mesh_layout.find_process_batch_shard(mesh, process) for process in range(processes)]
    assert shards == expected
