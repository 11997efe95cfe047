"""HLO text of all compilers, and trip counts of loops."""

import re

import jax
import jax.numpy as jnp
import pytest

from gpt_jax.preflight.estimate import count_flops
from gpt_jax.preflight.hlo import HloShape, count_executions, parse_hlo, parse_shapes

TEXT = """HloModule jit_f, is_scheduled=true, num_partitions=8, replica_count=2

FileNames
1 "a.py"

%body (p: (s32[], f32[2,3])) -> (s32[], f32[2,3]) {
  %p = (s32[]{:T(128)}, f32[2,3]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  ROOT %t.1 = (s32[]{:T(128)}, /*index=1*/f32[2,3]{1,0}) tuple(%a, %b), metadata={OP_NAME}
}

ENTRY %main.2_spmd (param: f32[2,3]) -> f32[] {
  %param = f32[2,3]{1,0} parameter(0), sharding={replicated}
  %c.2 = s32[] constant(-5)
  %kernel = f32[2]{0} custom-call(%param), custom_call_target="tpu_custom_call", attributes={x={
"a":"{}"
}}, metadata={op_name="jit(f)/kernel"}
  ROOT %while.1 = f32[] while(%t), condition=%cond, body=%body, backend_config={TRIP_COUNT}
}
"""
TEXT = TEXT.replace('OP_NAME', 'op_name="jit(f)/while (x)"')
TEXT = TEXT.replace('TRIP_COUNT', '"known_trip_count":{"n":"7"}')


def test_computations_instructions_and_devices():
    program = parse_hlo(TEXT)
    assert list(program.computations) == ['body', 'main.2_spmd']
    assert program.entry.name == 'main.2_spmd'
    assert program.devices == 16
    first, last = program.computations['body'].instructions
    assert first.opcode == 'parameter'
    assert first.literal == '0'
    assert first.shapes == (HloShape('s32', (), False), HloShape('f32', (2, 3), True))
    assert last.root
    assert last.operands == ('a', 'b')
    assert last.op_name == 'jit(f)/while (x)'
    loop = program.entry.root
    assert loop.called == ('body',)
    assert loop.operands == ('t',)
    # The text of this instruction contains line breaks.
    assert program.entry.by_name['kernel'].op_name == 'jit(f)/kernel'
    assert program.entry.by_name['c.2'].literal == '-5'


def test_bytes_of_types():
    shapes = parse_shapes(
        '(bf16[4,2]{1,0:T(8,128)(2,1)}, pred[], f32[<=8], s4[6], token[], u64[3])'
    )
    assert [shape.bytes for shape in shapes] == [16, 1, 32, 3, 0, 24]


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match='no ENTRY'):
        parse_hlo('HloModule x\n')


SIZE = 64
PRODUCT_FLOPS = 2 * SIZE**3
ANNOTATION = r'"known_trip_count":\{"n":"\d+"\},?'


def count_program_flops(text):
    """Return (FLOPs of all executions, loops of unknown trip count)."""
    program = parse_hlo(text)
    counts = count_executions(program)
    flops = sum(
        executions * count_flops(program.computations[name], each)
        for name, executions in counts.executions.items()
        for each in program.computations[name].instructions
    )
    return flops, counts.unknown


def compile_text(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


def make_square():
    return jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)


def nested_loops(x):
    def inner(x, _):
        return jnp.tanh(x @ x), None

    def outer(x, _):
        x, _ = jax.lax.scan(inner, x, None, length=5)
        return jnp.sin(x @ x), None

    return jax.lax.scan(outer, x, None, length=3)[0]


def test_trip_counts_of_nested_loops_multiply():
    text = compile_text(nested_loops, make_square())
    assert count_program_flops(text) == ((3 * 5 + 3) * PRODUCT_FLOPS, [])


def test_the_condition_gives_the_trip_count_without_an_annotation():
    text = re.sub(ANNOTATION, '', compile_text(nested_loops, make_square()))
    assert 'known_trip_count' not in text
    assert count_program_flops(text) == ((3 * 5 + 3) * PRODUCT_FLOPS, [])


def test_a_loop_may_start_anywhere_and_count_down():
    def function(x):
        up = jax.lax.fori_loop(3, 10, lambda _, x: jnp.tanh(x @ x), x)
        count_down = lambda carry: (carry[0] - 2, jnp.sin(carry[1] @ carry[1]))
        return jax.lax.while_loop(lambda carry: carry[0] > 1, count_down, (jnp.int32(8), up))[1]

    text = compile_text(function, make_square())
    assert count_program_flops(text)[0] == (7 + 4) * PRODUCT_FLOPS
    assert count_program_flops(re.sub(ANNOTATION, '', text))[0] == (7 + 4) * PRODUCT_FLOPS


def test_a_loop_of_unknown_trip_count_is_named_and_counted_once():
    def function(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: jnp.tanh(x @ x), x)

    flops, unknown = count_program_flops(compile_text(function, make_square()))
    assert flops == PRODUCT_FLOPS
    assert len(unknown) == 1


def test_one_branch_of_a_conditional_counts():
    def function(x, condition):
        return jax.lax.cond(
            condition, lambda x: x @ x, lambda x: jnp.sin(x + 1) @ jnp.cos(x) - x, x
        )

    text = compile_text(function, make_square(), jax.ShapeDtypeStruct((), bool))
    assert count_program_flops(text)[0] == PRODUCT_FLOPS
