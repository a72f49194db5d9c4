"""Kernels in int8 by the compiler: their bytes, and that no second copy of them lies in memory."""

from dataclasses import replace
from functools import partial

import jax
import pytest

from moa_jax.backbone.quantization import Quantized, is_quantized
from moa_jax.config import MeshConfig, MethodConfig
from moa_jax.planning.programs import Drawing, sampling_programs, shard_bytes
from moa_jax.sampling.settings import Settings
from moa_jax.training.mesh import make_mesh
from tests.planning import golden
from tests.planning.conftest import libtpu
from tests.planning.full_size import write_configurations
from tests.planning.makers import drawing_step, layers


def test_a_plan_counts_a_byte_for_each_weight_and_four_for_each_scale(tiny_folder):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    drawing = Drawing(
        str(tiny_folder), Settings(3), MethodConfig(max_subjects=2), height=64, width=64
    )
    floats, rounded = (
        sampling_programs(replace(drawing, quantization=quantization), mesh)[1]
        for quantization in (None, "int8")
    )
    weights = jax.tree.leaves(rounded.parts["weights"], is_leaf=is_quantized)
    kept = [leaf for leaf in weights if isinstance(leaf, Quantized)]
    saved = sum(leaf.values.size - 4 * leaf.scale.size for leaf in kept)  # of two bytes a weight
    before, after = (shard_bytes(each.parts["weights"]) for each in (floats, rounded))
    assert len(kept) > 50 and before - after == saved
    assert all(leaf.values.dtype == "int8" and leaf.scale.dtype == "float32" for leaf in kept)
    prediction, _ = rounded.lower().out_info
    assert prediction.shape == (1, 8, 8, 4)


@pytest.mark.slow
@libtpu
def test_the_compiler_holds_no_copy_of_the_kernels_in_floats(measured):
    """Not even outside of a loop, where one copy would serve all turns."""
    count, width = 8, 4096  # 32 MiB each in bfloat16; the chip's vector memory has 128
    of_floats, of_int8 = (
        measured(partial(layers, count, width, in_int8)) for in_int8 in (False, True)
    )
    weights = count * width * width
    assert of_floats.parts["kernels"] == 2 * weights
    assert of_int8.parts["kernels"] == weights + 4 * count * width
    assert of_int8.temporaries < 0.1 * weights
    assert of_int8.bytes < 0.6 * of_floats.bytes


@libtpu
@pytest.mark.slow
@pytest.mark.nightly  # two of full size
def test_a_step_of_stable_diffusion_with_moa_holds_no_copy_either(measured, tmp_path):
    drawing = replace(golden.drawing(write_configurations(tmp_path)), num_images=1)
    of_floats, of_int8 = (
        measured(partial(drawing_step, replace(drawing, quantization=quantization)))
        for quantization in (None, "int8")
    )
    assert of_floats.parts["weights"] - of_int8.parts["weights"] == pytest.approx(0.83e9, rel=0.01)
    assert of_int8.temporaries < 1.05 * of_floats.temporaries < 0.11e9
    assert of_int8.bytes < of_floats.bytes
