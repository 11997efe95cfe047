"""Is a TPU's schedule played through on one clock, loops multiplied, sending hidden behind work where it can be?"""

import gzip

import pytest

from gpt_jax.compiled.collectives import collectives
from gpt_jax.compiled.cycles import estimated, timeline
from gpt_jax.compiled.loops import times
from gpt_jax.compiled.parts import UNNAMED, parts
from gpt_jax.compiled.text import parse
from tests.compiled import sample


def program(work_between):
    cycles = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
    return parse(f"""HloModule a, num_partitions=2
ENTRY %main (p: f32[4]) -> f32[4] {{
  %p = f32[4]{{0}} parameter(0)
  %before = f32[4]{{0}} copy(%p), metadata={{op_name="jit(f)/first/copy"}}, {cycles % 10}
  %go = (f32[4]{{0}}, f32[8]{{0}}) all-gather-start(%before), replica_groups={{{{0,1}}}}, dimensions={{0}}
  %while_it_goes = f32[4]{{0}} copy(%before), metadata={{op_name="jit(f)/second/copy"}}, {cycles % work_between}
  %gone = f32[8]{{0}} all-gather-done(%go), metadata={{op_name="jit(f)/second/gather"}}
  ROOT %whole = f32[4]{{0}} all-reduce(%before), replica_groups={{{{0,1}}}}, metadata={{op_name="jit(f)/second/sum"}}
}}
""")


@pytest.mark.parametrize(('between', 'total'), [(30, 10 + 100 + 100), (250, 10 + 250 + 100)])
def test_an_asynchronous_collective_hides_behind_work(between, total):
    line = timeline(program(between), lambda *_: 100.0)
    assert line.cycles == total
    assert line.computing == 10 + between
    assert line.sending == 200
    assert line.exposed == total - 10 - between


def fused(work):
    """The same of a collective as a TPU's compiler writes it: at both ends a fusion, and one that works meanwhile."""
    gather = 'all-gather(%a), channel_id=7, replica_groups={{0,1}}, dimensions={0}'
    parts = {
        'begin': 'custom-call(%g), custom_call_target="AsyncCollectiveStart"', 'async_collective_fusion.1': 'copy(%g)',
        'end': 'custom-call(%g), custom_call_target="AsyncCollectiveDone"',
    }  # fmt: skip
    inside = ''.join(
        f"""%{name} (a: f32[4]) -> f32[8] {{
  %a = f32[4]{{0}} parameter(0)
  %g = f32[8]{{0}} {gather}
  ROOT %r = f32[8]{{0}} {last}
}}

"""
        for name, last in parts.items()
    )
    calls = ''.join(
        f'  %{name} = f32[8]{{0}} fusion(%p), kind=kCustom, calls=%{part}{more}\n'
        for name, part, more in (
            ('go', 'begin', ''),
            ('work', 'async_collective_fusion.1',
             f', backend_config={{"window_config":{{"estimated_cycles":"{work}"}}}}'),
            ('gone', 'end', ''),
        )
    )  # fmt: skip
    return parse(f"""HloModule a, num_partitions=2
{inside}ENTRY %main (p: f32[4]) -> f32[8] {{
  %p = f32[4]{{0}} parameter(0)
{calls}  ROOT %last = f32[8]{{0}} copy(%gone)
}}
""")


@pytest.mark.parametrize(('work', 'total'), [(30, 100), (250, 250)])
def test_a_collective_in_three_fusions_is_one(work, total):
    made = fused(work)
    line = timeline(made, lambda *_: 100.0)
    assert (line.cycles, line.computing, line.sending, line.exposed) == (total, work, 100, total - work)
    (found,) = collectives(made)
    assert (found.kind, found.asynchronous, found.times, found.bytes) == ('all-gather', True, 1, 32)


def test_parts_are_told_by_their_sources():
    made = program(30)
    found = {
        part.name: part.cycles for part in parts(made, timeline(made, lambda *_: 100.0), {'two': '/second/'}, 'rest')
    }
    assert found == {'waiting for two': 70 + 100, 'two': 30, 'rest': 10}


def test_the_sample_adds_up():
    made = parse(gzip.decompress(sample.TEXT.read_bytes()).decode())
    runs = times(made)
    expected = sum(
        count * (estimated(one) or 0)
        for name, count in runs.times.items() if name not in runs.fused
        for one in made.computations[name].instructions
    )  # fmt: skip
    line = timeline(made, lambda *_: 0.0)
    assert line.cycles == line.computing == expected > 6 * 10_000
    found = {part.name: part.cycles for part in parts(made, line, {}, 'all')}
    assert sum(found.values()) == expected
    assert found['all'] > found[UNNAMED] > 0
