"""What is known of chips, by the names that JAX gives them."""

import pytest

from moa_jax.training.chips import CHIPS, find_chip


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


# What JAX calls the chip of a device, and how many of its TensorCores the device has.
JAX_KNOWS = {
    "TPU v4": ("v4", 2),
    "TPU v5e": ("v5e", 1),
    "TPU v5p": ("v5p", 2),
    "TPU v6e": ("v6e", 1),
    "TPU7x": ("7x", 1),
}
# Where the two differ by more than JAX's three digits, and why ours is right.
DIFFERENT = {
    ("TPU v5p", "memory_bandwidth"): "Google publishes 2,765 GB/s = 2,575 GiB/s; JAX has 2,460",
}


@pytest.mark.parametrize("kind", JAX_KNOWS)
def test_jax_knows_the_same_of_a_chip(kind):
    tpu = pytest.importorskip("jax.experimental.pallas.tpu")
    if not hasattr(tpu, "get_tpu_info_for_chip"):
        pytest.skip("this jax has no table of chips")
    version, cores = JAX_KNOWS[kind]
    theirs = tpu.get_tpu_info_for_chip(tpu.ChipVersion(version), cores)
    numbers = {
        "flops": cores * theirs.bf16_ops_per_second,
        "memory_bandwidth": cores * theirs.mem_bw_bytes_per_second,
    }
    ours = find_chip(kind)
    differ = {
        (kind, name)
        for name, number in numbers.items()
        if abs(getattr(ours, name) / number - 1) > 0.005
    }
    assert differ == {each for each in DIFFERENT if each[0] == kind}
    # libtpu keeps a little of the memory for itself.
    assert 0.95 <= ours.memory / (cores * theirs.hbm_capacity_bytes) <= 1


def test_units_are_those_of_one_chip():
    for chip in CHIPS.values():
        assert 50e12 < chip.flops < 2000e12
        assert 300e9 <= chip.memory_bandwidth < 10e12
        assert 10e9 < chip.link_bandwidth < chip.memory_bandwidth
        assert chip.memory is None or 8 * 2**30 < chip.memory < 200 * 2**30
