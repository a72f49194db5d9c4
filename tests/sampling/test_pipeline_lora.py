"""LoRA files in a pipeline: put in force and taken back, without a picture drawn."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax import Pipeline
from tests.backbone.loras import draw, kohya, write


@pytest.fixture(scope="module")
def half(tiny_folder):
    return Pipeline.from_pretrained(tiny_folder, dtype=jnp.bfloat16)


def differing(one, other):
    """The paths of the leaves that are not the same arrays."""
    one, other = flatten_dict(one), flatten_dict(other)
    return [path for path in one if one[path] is not other[path]]


def test_a_file_is_taken_back_to_the_very_arrays_of_before(half, tmp_path):
    plain = half.params
    first, second = (
        write(tmp_path, kohya(draw(plain, r".*attn2\.to_k", seed=seed)), f"{seed}.safetensors")
        for seed in (1, 2)
    )
    half.add_lora(first, 0.7)
    alone = half.params
    half.add_lora(second, 0.5)
    assert differing(plain, half.params)
    half.add_lora(str(second), -0.5)
    for path in differing(plain, alone):
        found, expected = (np.asarray(flatten_dict(each)[path]) for each in (half.params, alone))
        np.testing.assert_array_equal(found, expected)
    half.add_lora(first, -0.7)
    assert not differing(plain, half.params)
    # What replaces the weights has no LoRA in force, and is not given back what had.
    half.add_lora(first, 0.7)
    half.params = plain
    half.add_lora(first, 0.7)
    half.add_lora(first, -0.7)
    assert not differing(plain, half.params)
