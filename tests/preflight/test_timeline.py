"""Simulated schedule: loops, overlap of communication and work, and parts of the model."""

import re

import pytest

from gpt_jax.preflight.collectives import find_collectives
from gpt_jax.preflight.hlo import count_executions, parse_hlo
from gpt_jax.preflight.timeline import (
    OTHER_PART,
    PART_PATTERNS,
    UNATTRIBUTED,
    group_by_part,
    read_estimated_cycles,
    simulate_schedule,
)
from tests.preflight import sample


def make_program(work_between):
    cycles = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
    copy = 'f32[4]{0} copy'
    groups = 'replica_groups={{0,1}}'
    return parse_hlo(f"""HloModule a, num_partitions=2
ENTRY %main (p: f32[4]) -> f32[4] {{
  %p = f32[4]{{0}} parameter(0)
  %before = {copy}(%p), metadata={{op_name="jit(f)/first/copy"}}, {cycles % 10}
  %start = (f32[4]{{0}}, f32[8]{{0}}) all-gather-start(%before), {groups}, dimensions={{0}}
  %between = {copy}(%before), metadata={{op_name="jit(f)/second/copy"}}, {cycles % work_between}
  %done = f32[8]{{0}} all-gather-done(%start), metadata={{op_name="jit(f)/second/gather"}}
  ROOT %sum = f32[4]{{0}} all-reduce(%before), {groups}, metadata={{op_name="jit(f)/second/sum"}}
}}
""")


@pytest.mark.parametrize(('between', 'total'), [(30, 10 + 100 + 100), (250, 10 + 250 + 100)])
def test_an_asynchronous_collective_hides_behind_work(between, total):
    timeline = simulate_schedule(make_program(between), lambda *_: 100.0)
    assert timeline.cycles == total
    assert timeline.compute_cycles == 10 + between
    assert timeline.collective_cycles == 200
    assert timeline.exposed_cycles == total - 10 - between


def make_fused_program(work):
    """The same as a TPU's compiler writes it: a fusion at both ends, and one with work between."""
    gather = 'all-gather(%a), channel_id=7, replica_groups={{0,1}}, dimensions={0}'
    roots = {
        'begin': 'custom-call(%g), custom_call_target="AsyncCollectiveStart"',
        'async_collective_fusion.1': 'copy(%g)',
        'end': 'custom-call(%g), custom_call_target="AsyncCollectiveDone"',
    }
    bodies = ''.join(
        f"""%{name} (a: f32[4]) -> f32[8] {{
  %a = f32[4]{{0}} parameter(0)
  %g = f32[8]{{0}} {gather}
  ROOT %r = f32[8]{{0}} {root}
}}

"""
        for name, root in roots.items()
    )
    cycles = f', backend_config={{"window_config":{{"estimated_cycles":"{work}"}}}}'
    fusions = ''.join(
        f'  %{name} = f32[8]{{0}} fusion(%p), kind=kCustom, calls=%{body}{config}\n'
        for name, body, config in (
            ('start', 'begin', ''),
            ('work', 'async_collective_fusion.1', cycles),
            ('done', 'end', ''),
        )
    )
    return parse_hlo(f"""HloModule a, num_partitions=2
{bodies}ENTRY %main (p: f32[4]) -> f32[8] {{
  %p = f32[4]{{0}} parameter(0)
{fusions}  ROOT %last = f32[8]{{0}} copy(%done)
}}
""")


@pytest.mark.parametrize(('work', 'total'), [(30, 100), (250, 250)])
def test_a_collective_in_three_fusions_counts_once(work, total):
    program = make_fused_program(work)
    timeline = simulate_schedule(program, lambda *_: 100.0)
    assert (timeline.cycles, timeline.compute_cycles) == (total, work)
    assert (timeline.collective_cycles, timeline.exposed_cycles) == (100, total - work)
    (collective,) = find_collectives(program)
    assert (collective.kind, collective.asynchronous) == ('all-gather', True)
    assert (collective.executions, collective.bytes) == (1, 32)


def test_parts_are_told_by_their_sources():
    program = make_program(30)
    timeline = simulate_schedule(program, lambda *_: 100.0)
    parts = group_by_part(program, timeline, {'two': '/second/'}, 'rest')
    cycles = {part.name: part.cycles for part in parts}
    assert cycles == {'waiting for two': 70 + 100, 'two': 30, 'rest': 10}


def test_the_sample_adds_up():
    program = parse_hlo(sample.read_text('tpu'))
    counts = count_executions(program)
    expected = sum(
        executions * (read_estimated_cycles(each) or 0)
        for name, executions in counts.executions.items()
        if name not in counts.fused
        for each in program.computations[name].instructions
    )
    timeline = simulate_schedule(program, lambda *_: 0.0)
    assert timeline.cycles == timeline.compute_cycles == expected > 6 * 10_000
    cycles = {part.name: part.cycles for part in group_by_part(program, timeline, {}, 'all')}
    assert sum(cycles.values()) == expected
    assert cycles['all'] > cycles[UNATTRIBUTED] > 0


@pytest.mark.parametrize(
    ('op_name', 'part'),
    [
        ('jvp(GPT)/blocks/feedforward/dot_general', 'feed-forward'),
        ('jvp(GPT)/blocks/feedforward/all_gather', 'feed-forward'),  # weights, not routing
        ('transpose(jvp(GPT))/blocks/feedforward/reduce_scatter', 'feed-forward'),
        ('jvp(GPT)/blocks/feedforward/sort', 'feed-forward, routing'),
        ('jvp(GPT)/blocks/feedforward/gather', 'feed-forward, routing'),
        ('jvp(GPT)/blocks/attention/all_gather', 'attention, projections'),
        ('add', OTHER_PART),
    ],
)
def test_patterns_of_the_parts(op_name, part):
    matches = (name for name, pattern in PART_PATTERNS.items() if re.search(pattern, op_name))
    assert next(matches, OTHER_PART) == part
