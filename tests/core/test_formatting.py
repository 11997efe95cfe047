"""Numbers and sentences are written as documented."""

import math

import pytest

from gpt_jax.core import formatting


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (None, ''),
        (math.nan, ''),
        (12_736, '12,736'),
        (6.796e9, '6.796B'),
        (2.5e12, '2.5T'),
        (1.5e16, '1.5e16'),
    ],
)
def test_format_count(value, text):
    assert formatting.format_count(value) == text


def test_format_flops_and_ratio():
    assert formatting.format_flops(2.5e18) == '2.5e18'
    assert formatting.format_flops(math.inf) == ''
    assert formatting.format_tokens_per_param(2480.4, 1.0) == '2,480'
    assert formatting.format_tokens_per_param(18.43, 1.0) == '18.4'
    assert formatting.format_tokens_per_param(None, 1.0) == ''


@pytest.mark.parametrize(
    ('count', 'text'), [(12, '12 B'), (1500, '1.5 kB'), (3.2e9, '3.2 GB'), (1e12, '1 TB')]
)
def test_format_bytes(count, text):
    assert formatting.format_bytes(count) == text


def test_format_residual_and_sentence():
    assert formatting.format_residual(math.log(1.0125)) == '+1.25%'
    assert formatting.to_sentence('the loss falls') == 'The loss falls.'
    assert formatting.to_sentence('Done.') == 'Done.'
