"""Coordinate check: mup and CompleteP pass, the standard parametrization fails."""

import json

import pytest

from gpt_jax.trainer import coord_check
from tests import in_process

SMALL = {
    'config.model.width': 16,
    'config.model.heads': 2,
    'config.model.init_std': 0.12,
    'config.optimizer.learning_rate': 0.01,
    'config.train.steps': None,
}


@pytest.mark.parametrize(
    ('parametrization', 'feedforward', 'passed'),
    [
        ('standard', 'mlp', {'width': False}),
        # over width, CompleteP has the rules of muP
        pytest.param('mup', 'mlp', {'width': True}, marks=pytest.mark.slow),
        pytest.param('mup', 'experts', {'width': True}, marks=pytest.mark.slow),
        pytest.param('completep', 'mlp', {'width': True, 'layers': True}, marks=pytest.mark.slow),
    ],
)
def test_mup_passes_and_standard_fails(
    tmp_path, source, monkeypatch, parametrization, feedforward, passed
):
    fields = SMALL | {'mode': 'coord_check', 'config.data.source': source}
    fields['config.model.layers'] = 2 if 'layers' in passed else 1
    if 'layers' not in passed:  # then two depths are enough to write the table
        monkeypatch.setitem(coord_check.FACTORS, 'layers', (1, 2))
    if not passed['width']:  # the smallest and the largest show the slope
        monkeypatch.setitem(coord_check.FACTORS, 'width', (1, 8))
    fields['config.model.parametrization'] = parametrization
    fields['config.model.feedforward'] = feedforward
    if feedforward == 'experts':
        fields |= {'config.model.experts': 4, 'config.model.activation': 'silu'}
    command = in_process.command(tmp_path / 'c', **fields)
    out, err = in_process.run(command, code=0 if all(passed.values()) else 3)
    report = json.loads((tmp_path / 'c/coord_check.json').read_text())
    checks = {check['over']: check for check in report['checks']}
    assert {dimension: checks[dimension]['passed'] for dimension in passed} == passed
    assert checks['width']['sizes'] == [16 * factor for factor in coord_check.FACTORS['width']]
    names = {'attention', 'feedforward', 'residual', 'norm', 'logits'}
    names |= {'router'} if feedforward == 'experts' else set()
    assert set(checks['width']['slopes']) == names
    assert json.loads(out.splitlines()[-1])['passed'] is all(passed.values())
    assert (tmp_path / 'c/coord_check.png').stat().st_size > 10_000
    if parametrization == 'standard':
        assert checks['width']['slopes']['residual'] > 1
        assert 'the movement of activations depends on width' in err


@pytest.mark.parametrize(
    ('power', 'judged', 'verdict'),
    [(0.1, True, 'pass'), (0.5, True, 'FAIL'), (-0.5, True, 'FAIL'), (1.0, False, 'not judged')],
)
def test_slopes_and_verdicts(tmp_path, power, judged, verdict):
    sizes = [32, 64, 128]
    movements = [{'logits': 2.0 * size**power, 'norm': 1.0, 'router': size**-0.6} for size in sizes]
    movements[0]['only here'] = 1.0
    result = coord_check.check_slopes(sizes, movements, 'width', judged=judged)
    assert result['slopes'] == pytest.approx({'logits': power, 'norm': 0, 'router': -0.6})
    assert (result['worst'], result['verdict']) == ('logits', verdict)
    assert coord_check.format_check(result, 'mup')[-1].startswith(
        f'{verdict}: with mup, the movement of logits scales as width^'
    )
    paths = coord_check.plot_checks([result], 'mup', tmp_path / 'check.png')
    assert [path.suffix for path in paths] == ['.png', '.svg']
