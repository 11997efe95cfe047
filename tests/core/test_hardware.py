"""Chips by vendor name and by JAX's device kind."""

import pytest

from gpt_jax.core.hardware import CHIPS, find_chip, find_peak_flops


@pytest.mark.parametrize(
    ('name', 'chip'),
    [
        ('v5e', 'v5e'),
        ('H100', 'h100'),
        ('TPU v5 lite', 'v5e'),
        ('TPU v5', 'v5p'),
        ('TPU v5p', 'v5p'),
        ('NVIDIA H100 80GB HBM3', 'h100'),
        ('NVIDIA H100 PCIe', 'h100-pcie'),
        ('NVIDIA A100-SXM4-40GB', 'a100-40gb'),
        ('NVIDIA A100-SXM4-80GB MIG 3g.40gb', 'a100'),
        ('NVIDIA H200', 'h200'),
    ],
)
def test_chips_by_name(name, chip):
    assert find_chip(name) is CHIPS[chip]


@pytest.mark.parametrize('name', ['cpu', '', 'TPU v1', 'NVIDIA', 'NVIDIA GeForce RTX 4090'])
def test_unknown_chips(name):
    assert find_chip(name) is None
    assert find_peak_flops(name) is None


def test_peak_by_dtype():
    assert find_peak_flops('TPU v6 lite') == 918e12
    assert find_peak_flops('v5p', 'int8') is None
    assert find_peak_flops('v5p', 'float32') is None


def test_every_chip_has_a_bfloat16_peak_and_unique_device_kinds():
    assert all(chip.bfloat16_peak > 0 for chip in CHIPS.values())
    kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
    assert len(kinds) == len(set(kinds))
