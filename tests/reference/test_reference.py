"""Reference runs give the recorded numbers, bitwise on the processor that recorded them.

All of them, in two minutes: pytest -n 0 -m "slow or not slow" tests/reference
"""

import math
from typing import Any

import pytest

from tests.reference import record, runs

RECORDED = record.read_recorded()
IS_RECORDED_PROCESSOR = record.get_processor() == RECORDED['processor']
TOLERANCE = 1e-4  # relative, of float32 numbers after some steps on another processor
TOLERANCES = {
    'experts': 1e-3,  # a near tie of two experts may be decided otherwise
    'text': 1e-3,  # after many more steps
    **dict.fromkeys(('fit', 'plan', 'plan_sweep', 'compare'), 2e-3),  # minimizers that iterate
}
APPROXIMATE_TOLERANCE = 1e-5  # relative, of what may differ in its last bits on any processor
# These compile what other cases do not share; run them after moving or renaming code.
SLOW_CASES = (
    'classification',
    'clipped',
    'eight_devices',
    'isolate',
    'lora',
    'modern',
    'mup',
    'text',
)
ABSOLUTE = 1e-6  # of numbers near zero, wherever there is a tolerance


def find_differences(
    case: str, expected: runs.Result, found: runs.Result, *, bitwise: bool
) -> list[str]:
    """A line for every key whose value is not the recorded one.

    Args:
      case: decides the tolerance.
      expected: the recorded result.
      found: the result of this run.
      bitwise: whether this is the processor that recorded.
    """
    lines = [f'{key}: missing' for key in expected if key not in found]
    lines += [f'{key}: not recorded' for key in found if key not in expected]
    for key in expected.keys() & found.keys():
        is_approximate = key.endswith('_approximate')
        if bitwise and not is_approximate:
            tolerance = 0.0
        elif not has_floats(expected[key]):
            continue
        elif bitwise:
            tolerance = APPROXIMATE_TOLERANCE
        else:
            tolerance = TOLERANCES.get(case, TOLERANCE)
        if line := describe_difference(expected[key], found[key], tolerance):
            lines.append(f'{key}: {line}')
    return sorted(lines)


def has_floats(value: Any) -> bool:
    """Whether the value is a list of floats, and not of token ids."""
    return isinstance(value, list) and any(isinstance(number, float) for number in value)


def describe_difference(expected: Any, found: Any, tolerance: float) -> str:
    """How two values differ; empty where they do not, within the relative tolerance."""
    if not (has_floats(expected) and has_floats(found)):
        return '' if expected == found else f'recorded {expected!r}, found {found!r}'
    if len(expected) != len(found):
        return f'recorded {len(expected)} numbers, found {len(found)}'
    differing = [
        (number, one, other)
        for number, (one, other) in enumerate(zip(expected, found, strict=True))
        if not is_close(one, other, tolerance)
    ]
    if not differing:
        return ''
    number, one, other = differing[0]
    largest = max(abs(one - other) / max(abs(one), abs(other)) for _, one, other in differing)
    return (
        f'{len(differing)} of {len(expected)} numbers differ, relatively by up to {largest:.2g} '
        f'(allowed {tolerance:g}); the first is number {number}: recorded {one!r}, found {other!r}'
    )


def is_close(one: float, other: float, tolerance: float) -> bool:
    """Equality within a relative tolerance; NaN equals NaN."""
    if math.isnan(one) and math.isnan(other):
        return True
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=ABSOLUTE if tolerance else 0.0)


@pytest.mark.parametrize(
    'case',
    [
        pytest.param(case, marks=pytest.mark.slow) if case in SLOW_CASES else case
        for case in runs.CASES
    ],
)
def test_run_gives_the_recorded_numbers(case, tmp_path):
    found = runs.CASES[case](tmp_path)
    expected = RECORDED['cases'][case]
    differences = find_differences(case, expected, found, bitwise=IS_RECORDED_PROCESSOR)
    kind = 'bitwise' if IS_RECORDED_PROCESSOR else 'within a tolerance'
    message = '\n  '.join([f'{case} differs from its record ({kind}):', *differences])
    assert not differences, message


def test_every_recorded_case_is_run():
    assert RECORDED['cases'].keys() == runs.CASES.keys()


def test_resumed_run_was_recorded_equal_to_the_uninterrupted_one():
    assert RECORDED['cases']['resumed'] == RECORDED['cases']['dense']


@pytest.mark.parametrize(
    ('expected', 'found', 'bitwise', 'message'),
    [
        ({'a': [1.0]}, {'a': [1.0 + 1e-15]}, True, 'a: 1 of 1 numbers differ'),
        ({'a': [1.0]}, {'a': [1.0 + 1e-6]}, False, ''),
        ({'a': [1.0, 2.0]}, {'a': [1.0, 2.1]}, False, 'number 1: recorded 2.0, found 2.1'),
        ({'a_approximate': [1.0]}, {'a_approximate': [1.0 + 1e-7]}, True, ''),
        ({'a_approximate': [1.0]}, {'a_approximate': [1.1]}, True, 'a_approximate'),
        ({'a': 'x'}, {'a': 'y'}, True, "recorded 'x', found 'y'"),
        ({'a': [1, 2]}, {'a': [1, 3]}, True, 'recorded [1, 2], found [1, 3]'),
        ({'a': 'x'}, {'a': 'y'}, False, ''),
        ({'a': 'x'}, {}, False, 'a: missing'),
        ({}, {'a': 'x'}, False, 'a: not recorded'),
    ],
)
def test_a_difference_is_named(expected, found, bitwise, message):
    lines = find_differences('dense', expected, found, bitwise=bitwise)
    assert bool(lines) == bool(message)
    assert message in '\n'.join(lines)
