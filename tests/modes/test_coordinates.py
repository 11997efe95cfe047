"""Does the check tell a parametrization that carries rates over from one that does not?"""

import json

import pytest

from tests import program

SMALL = {
    'config.model.width': 16, 'config.model.heads': 2, 'config.model.layers': 2, 'config.model.init_std': 0.12,
    'config.optimizer.learning_rate': 0.01, 'config.train.steps': None,
}  # fmt: skip


@pytest.mark.parametrize(
    ('parametrization', 'passed'),
    [
        ('standard', {'width': False}),
        # CompleteP's rules over width are muP's
        pytest.param('mup', {'width': True}, marks=pytest.mark.slow),
        pytest.param('completep', {'width': True, 'layers': True}, marks=pytest.mark.slow),
    ],
)
def test_mup_passes_and_standard_fails(tmp_path, source, parametrization, passed):
    fields = SMALL | {'mode': 'coordinates', 'config.data.source': source}
    fields['config.model.parametrization'] = parametrization
    out, err = program.run(program.command(tmp_path / 'c', **fields), code=0 if all(passed.values()) else 3)
    checks = {one['over']: one for one in json.loads((tmp_path / 'c/coordinates.json').read_text())['checks']}
    assert {over: checks[over]['passed'] for over in passed} == passed
    assert checks['width']['sizes'] == [16, 32, 64, 128]
    assert set(checks['width']['slopes']) == {'attention', 'feedforward', 'residual', 'norm', 'logits'}
    assert json.loads(out.splitlines()[-1])['passed'] is all(passed.values())
    assert (tmp_path / 'c/coordinates.png').stat().st_size > 10_000
    if parametrization == 'standard':
        assert checks['width']['slopes']['residual'] > 1
        assert 'how far activations move depends on width' in err
