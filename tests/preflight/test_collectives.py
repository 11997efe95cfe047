"""Collectives: bytes, replica groups, executions, and seconds on the interconnect."""

import itertools

import pytest

from gpt_jax.core.hardware import CHIPS
from gpt_jax.preflight.collectives import (
    HOP_SECONDS,
    Collective,
    estimate_collective_seconds,
    find_collectives,
    find_wraparound,
    parse_replica_groups,
)
from gpt_jax.preflight.hlo import parse_hlo
from tests.preflight import sample
from tests.preflight.sample import LAYERS, ROWS, WIDTH

CUBE = list(itertools.product(range(4), range(4), range(4)))
SQUARE = list(itertools.product(range(4), range(4)))


def make_program(attributes, opcode='all-reduce', operand='f32[4]{0}'):
    text = f"""HloModule a, num_partitions=8
ENTRY %main (p: f32[4]) -> f32[4] {{
  %p = {operand} parameter(0)
  ROOT %c = f32[4]{{0}} {opcode}(%p), channel_id=1, {attributes}, metadata={{op_name="jit(f)/x"}}
}}
"""
    return parse_hlo(text)


@pytest.mark.parametrize(
    ('attribute', 'expected'),
    [
        ('replica_groups={{0,1},{2,3}}', ((0, 1), (2, 3))),
        ('replica_groups={}', (tuple(range(8)),)),
        ('replica_groups=[2,4]<=[8]', ((0, 1, 2, 3), (4, 5, 6, 7))),
        ('replica_groups=[4,2]<=[2,4]T(1,0)', ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['x'=2,'y'=4] {'x'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['x'=2,'y'=4] {'x','y'}", (tuple(range(8)),)),
        ("replica_groups=mesh['x'=8] {'x':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ('source_target_pairs={{0,1},{1,0}}', ((0, 1), (1, 0))),
        ('to_apply=%add', (tuple(range(8)),)),
    ],
)
def test_replica_groups_in_every_form(attribute, expected):
    program = make_program(attribute)
    assert parse_replica_groups(program.entry.root, program.devices) == expected


@pytest.mark.parametrize(
    ('opcode', 'size', 'wire_bytes'),
    [
        ('all-reduce', 16, 24),
        ('all-gather', 64, 48),
        ('reduce-scatter', 16, 12),
        ('all-to-all', 16, 12),
        ('all-gather-start', 64, 48),
        ('all-reduce-start', 16, 24),
    ],
)
def test_bytes_and_wire_bytes_of_a_ring(opcode, size, wire_bytes):
    (collective,) = find_collectives(make_program('replica_groups=[2,4]<=[8]', opcode))
    assert (collective.bytes, collective.wire_bytes) == (size, wire_bytes)
    assert (collective.group_size, collective.op_name) == (4, 'jit(f)/x')
    assert collective.asynchronous == opcode.endswith('start')
    assert collective.kind == opcode.removesuffix('-start')


def test_the_end_of_an_asynchronous_collective_is_not_counted():
    assert not find_collectives(make_program('a=1', 'all-gather-done'))


def test_a_group_of_one_sends_nothing():
    (collective,) = find_collectives(make_program('replica_groups={{0},{1}}'))
    assert (collective.group_size, collective.wire_bytes) == (1, 0)


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_collectives_of_the_sample(platform):
    itemsize = 2 if platform == 'tpu' else 4  # a CPU sends bfloat16 as float32
    program = parse_hlo(sample.read_text(platform))
    large = [each for each in find_collectives(program) if each.bytes > 100]
    collectives = {(each.kind, each.executions): each for each in large}
    matrix, activations = WIDTH * WIDTH * itemsize, ROWS // 2 * WIDTH * itemsize
    all_gather = collectives['all-gather', LAYERS]
    reduce_scatter = collectives['reduce-scatter', LAYERS]
    assert all_gather.bytes == reduce_scatter.bytes == matrix
    assert all_gather.wire_bytes == matrix // 2
    assert all_gather.groups == reduce_scatter.groups == ((0, 1), (2, 3))
    assert 'all_gather' in all_gather.op_name
    assert collectives['all-to-all', 1].bytes == activations
    assert collectives['collective-permute', 1].bytes == activations
    assert collectives['all-reduce', 1].bytes == LAYERS * matrix // 2
    assert collectives['all-reduce', 1].groups == ((0, 2), (1, 3))


def estimate_seconds(kind, groups, size, chip, coordinates):
    collective = Collective(
        name='c',
        computation='main',
        kind=kind,
        bytes=size,
        wire_bytes=size,
        group_size=len(groups[0]),
        groups=tuple(map(tuple, groups)),
        executions=1,
        op_name='',
        dtype='f32',
        asynchronous=False,
    )
    return estimate_collective_seconds(collective, chip, coordinates)


def test_links_wrap_around_in_multiples_of_four_and_at_sixteen():
    assert find_wraparound((4, 4, 8)) == [True] * 3
    assert find_wraparound((2, 2, 4)) == [False] * 3
    assert find_wraparound((8, 16)) == [False, True]


@pytest.mark.parametrize(
    ('group', 'links', 'hops'),
    [
        (range(64), 6, 6),  # the whole cube: both directions of three rings
        (range(4), 2, 2),  # one ring
        (range(2), 1, 1),  # half of one
        (range(16), 4, 4),
    ],
)
def test_a_group_in_a_cube_uses_all_of_its_rings(group, links, hops):
    chip = CHIPS['v5p']
    expected = 6e9 / (links * chip.link_bandwidth) + hops * HOP_SECONDS
    seconds = estimate_seconds('all-gather', [group], 6e9, chip, CUBE)
    assert seconds == pytest.approx(expected)


def test_a_2d_slice_without_wraparound_has_lines():
    chip = CHIPS['v5e']
    expected = 1e9 / (2 * chip.link_bandwidth) + 6 * HOP_SECONDS
    seconds = estimate_seconds('all-reduce', [range(16)], 1e9, chip, SQUARE)
    assert seconds == pytest.approx(expected)


def test_a_permutation_takes_longer_over_more_hops():
    near, far = (
        estimate_seconds('collective-permute', [(0, target)], 1e9, CHIPS['v5p'], CUBE)
        for target in (1, 2)
    )
    assert far == pytest.approx(2 * near)


def test_gpus_are_slower_between_hosts():
    within_host, between_hosts = (
        estimate_seconds('all-reduce', [range(count)], 1e9, CHIPS['h100'], []) for count in (8, 16)
    )
    assert between_hosts > 8 * within_host


def test_a_group_of_one_takes_no_time():
    assert estimate_seconds('all-reduce', [range(1)], 0, CHIPS['v5p'], CUBE) == 0
