"""Do the reasons add up to the compiled step's FLOPs?"""

import pytest

from gpt_jax.compiled import text
from gpt_jax.compiled.loops import times
from gpt_jax.compiled.work import flops
from gpt_jax.model import accounting
from gpt_jax.preflight.flops import explained
from tests.model import compiled


@pytest.mark.parametrize('remat', ['none', 'dots', 'block'])
@pytest.mark.parametrize(
    'fields',
    [{'attention_chunk': 8}, {'feedforward': 'gated', 'kv_heads': 2, 'attention_chunk': 4, 'vocab_multiple': 64}],
)
def test_reasons(model_config, remat, fields):
    config = model_config(width=64, scan_layers=True, remat=remat, **fields)
    program = text.parse(compiled.gradient(config, 4).as_text())
    found = sum(
        count * flops(program.computations[name], one)
        for name, count in times(program).times.items() for one in program.computations[name].instructions
    )  # fmt: skip
    reasons = explained(config)
    assert reasons['model'] == accounting.flops_per_token(config)['with_attention']
    assert found / (4 * config.context) == pytest.approx(sum(reasons.values()), rel=0.02)
    assert (reasons['rematerialization'] > 0) == (remat != 'none')
