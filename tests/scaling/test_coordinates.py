"""Are slopes read right, and is a parametrization judged only by what it promises?"""

import pytest

from gpt_jax.scaling import coordinates


@pytest.mark.parametrize(
    ('power', 'judged', 'verdict'),
    [(0.1, True, 'pass'), (0.5, True, 'FAIL'), (-0.5, True, 'FAIL'), (1.0, False, 'not judged')],
)
def test_check(tmp_path, power, judged, verdict):
    sizes = [32, 64, 128]
    moved = [{'logits': 2.0 * size**power, 'norm': 1.0, 'only here': 1.0} for size in sizes[:1]]
    moved += [{'logits': 2.0 * size**power, 'norm': 1.0} for size in sizes[1:]]
    result = coordinates.check(sizes, moved, 'width', judged=judged)
    assert result['slopes'] == {'logits': pytest.approx(power), 'norm': pytest.approx(0)}
    assert (result['worst'], result['verdict']) == ('logits', verdict)
    assert coordinates.lines(result, 'mup')[-1].startswith(f'{verdict}: over width, mup moves logits by a power of')
    made = coordinates.plot([result], 'mup', tmp_path / 'check.png')
    assert [path.suffix for path in made] == ['.png', '.svg']
