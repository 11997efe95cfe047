"""Is a run's curve short, in order, and ended where the run ended?"""

import pytest

from gpt_jax.observe.curve import POINTS, curve


def test_points_are_even_in_log_tokens_and_end_with_the_run():
    rows = [{'tokens': 1000 * step, 'loss': 5.0 - step / 1000, 'step': step} for step in range(1, 2001)]
    made = curve(rows)
    assert len(made) <= POINTS
    assert [tokens for tokens, _ in made] == sorted(tokens for tokens, _ in made)
    assert made[-1][0] == 2_000_000
    assert made[0] == [1000, 4.999]
    assert made[-1][1] == pytest.approx(3.1, abs=0.1)  # the mean of its bin


def test_rows_without_a_loss_are_passed_over():
    assert curve([]) == []
    assert curve([{'tokens': 5, 'loss': 'nan'}, {'step': 3}, {'tokens': 7, 'loss': 2.0}]) == [[7.0, 2.0]]
