"""Are lines of all compilers read as they were written?"""

import pytest

from gpt_jax.compiled.text import Shape, parse, shapes

TEXT = """HloModule jit_f, is_scheduled=true, num_partitions=8, replica_count=2

FileNames
1 "a.py"

%body (p: (s32[], f32[2,3])) -> (s32[], f32[2,3]) {
  %p = (s32[]{:T(128)}, f32[2,3]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  ROOT %t.1 = (s32[]{:T(128)}, /*index=1*/f32[2,3]{1,0}) tuple(%a, %b), metadata={op_name="jit(f)/while (x)"}
}

ENTRY %main.2_spmd (param: f32[2,3]) -> f32[] {
  %param = f32[2,3]{1,0} parameter(0), sharding={replicated}
  %c.2 = s32[] constant(-5)
  %kernel = f32[2]{0} custom-call(%param), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"a":"{}"
}}, metadata={op_name="jit(f)/kernel"}
  ROOT %while.1 = f32[] while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"7"}}
}
"""


def test_computations_instructions_and_devices():
    program = parse(TEXT)
    assert list(program.computations) == ['body', 'main.2_spmd']
    assert program.entry.name == 'main.2_spmd'
    assert program.devices == 16
    first, last = program.computations['body'].instructions
    assert first.opcode == 'parameter'
    assert first.literal == '0'
    assert first.shapes == (Shape('s32', (), False), Shape('f32', (2, 3), True))
    assert last.root
    assert last.operands == ('a', 'b')
    assert last.op_name == 'jit(f)/while (x)'
    loop = program.entry.root
    assert loop.called == ('body',)
    assert loop.operands == ('t',)
    assert program.entry.by_name['kernel'].op_name == 'jit(f)/kernel'  # its line has ends of lines in it
    assert program.entry.by_name['c.2'].literal == '-5'


def test_bytes_of_types():
    made = shapes('(bf16[4,2]{1,0:T(8,128)(2,1)}, pred[], f32[<=8], s4[6], token[], u64[3])')
    assert [shape.bytes for shape in made] == [16, 1, 32, 3, 0, 24]


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match='no ENTRY'):
        parse('HloModule x\n')
