"""What is known of chips, by the names that JAX gives them."""

import pytest

from moa_jax.chips import CHIPS, find_chip


@pytest.mark.parametrize(
    ("kind", "name", "tflops"),
    [
        ("TPU v4", "v4", 275),
        ("TPU v5 lite", "v5e", 197),
        ("TPU v5", "v5p", 459),
        ("TPU v5p", "v5p", 459),
        ("TPU v6 lite", "v6e", 918),
        ("NVIDIA H100 80GB HBM3", "H100", 989),
        ("NVIDIA H100 PCIe", "H100 PCIe", 756),
        ("NVIDIA L4", "L4", 121),
        ("NVIDIA L40S", "L40S", 362),
    ],
)
def test_a_chip_is_found_by_the_longest_name_that_fits(kind, name, tflops):
    chip = find_chip(kind)
    assert (chip.name, chip.flops) == (name, tflops * 1e12)


@pytest.mark.parametrize("kind", ["cpu", "TPU v9", ""])
def test_what_is_not_listed_is_not_known(kind):
    assert find_chip(kind) is None


def test_units_are_those_of_one_chip():
    for chip in CHIPS.values():
        assert 50e12 < chip.flops < 2000e12
        assert 300e9 <= chip.memory_bandwidth < 10e12
        assert 10e9 < chip.link_bandwidth < chip.memory_bandwidth
        assert chip.memory is None or 8 * 2**30 < chip.memory < 200 * 2**30
