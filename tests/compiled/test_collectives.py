"""Is every collective found, with its bytes, its groups and how often it runs?"""

import gzip

import jax
import pytest

from gpt_jax.compiled.collectives import collectives, groups
from gpt_jax.compiled.text import parse
from tests.compiled import sample
from tests.compiled.sample import LAYERS, ROWS, WIDTH


def line(attributes, opcode='all-reduce', operand='f32[4]{0}'):
    text = f"""HloModule a, num_partitions=8
ENTRY %main (p: f32[4]) -> f32[4] {{
  %p = {operand} parameter(0)
  ROOT %c = f32[4]{{0}} {opcode}(%p), channel_id=1, {attributes}, metadata={{op_name="jit(f)/x"}}
}}
"""
    return parse(text)


@pytest.mark.parametrize(
    ('form', 'expected'),
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
def test_groups_in_every_form(form, expected):
    program = line(form)
    assert groups(program.entry.root, program.devices) == expected


@pytest.mark.parametrize(
    ('opcode', 'size', 'wire'),
    [
        ('all-reduce', 16, 24), ('all-gather', 64, 48), ('reduce-scatter', 16, 12), ('all-to-all', 16, 12),
        ('all-gather-start', 64, 48), ('all-reduce-start', 16, 24),
    ],
)  # fmt: skip
def test_bytes_and_what_a_ring_sends(opcode, size, wire):
    (found,) = collectives(line('replica_groups=[2,4]<=[8]', opcode))
    assert (found.bytes, found.wire_bytes, found.group, found.op_name) == (size, wire, 4, 'jit(f)/x')
    assert found.asynchronous == opcode.endswith('start')
    assert found.kind == opcode.removesuffix('-start')


def test_the_end_of_an_asynchronous_one_is_no_other():
    assert not collectives(line('a=1', 'all-gather-done'))


def test_a_group_of_one_sends_nothing():
    (found,) = collectives(line('replica_groups={{0},{1}}'))
    assert (found.group, found.wire_bytes) == (1, 0)


@pytest.mark.parametrize('machine', ['cpu', 'tpu'])
def test_the_samples_collectives(machine):
    """A CPU sends bfloat16 as float32."""
    if machine == 'tpu':
        text, each = gzip.decompress(sample.TEXT.read_bytes()).decode(), 2
    else:
        text, each = sample.compiled(jax.devices()[:4]).as_text(), 4
    rows = [one for one in collectives(parse(text)) if one.bytes > 100]
    found = {(one.kind, one.times): one for one in rows}
    matrix, activations = WIDTH * WIDTH * each, ROWS // 2 * WIDTH * each
    gathered, scattered = found['all-gather', LAYERS], found['reduce-scatter', LAYERS]
    assert gathered.bytes == scattered.bytes == matrix
    assert gathered.wire_bytes == matrix // 2
    assert gathered.groups == scattered.groups == ((0, 1), (2, 3))
    assert 'all_gather' in gathered.op_name
    assert found['all-to-all', 1].bytes == found['collective-permute', 1].bytes == activations
    assert found['all-reduce', 1].bytes == LAYERS * matrix // 2
    assert found['all-reduce', 1].groups == ((0, 2), (1, 3))
