"""Kernels in int8, against numbers worked out by hand, and as Flax's layers compute with them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.quantization import Quantized, choose_place, quantize
from moa_jax.backbone.stable_diffusion import load_stable_diffusion, save_stable_diffusion
from moa_jax.errors import InputError
from moa_jax.method.trained import leaf_paths

# Steps of 0.5, 1/127 and 0.25; 1.3 is nearer to 3 steps of 0.5 than to 2, and 0.9 to 4 of 0.25.
KERNEL = np.array(
    [[63.5, 1.0, 0.0, -31.75], [1.3, -0.5, 0.0, 0.9], [-0.2, 0.996, 0.0, 0.0]], np.float32
)
VALUES = [[127, 127, 0, -127], [3, -64, 0, 4], [0, 126, 0, 0]]
SCALES = [0.5, 1 / 127, 0.0, 0.25]


@pytest.mark.parametrize("library", [np, jnp])
def test_each_output_channel_is_rounded_to_steps_of_its_own(library):
    kept = quantize(library.asarray(KERNEL), jnp.bfloat16)
    assert (kept.values.dtype, kept.scale.dtype) == (jnp.int8, jnp.float32)
    np.testing.assert_array_equal(kept.values, VALUES)
    np.testing.assert_allclose(kept.scale.ravel(), SCALES, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(
        kept.astype(np.float32), np.multiply(VALUES, SCALES), rtol=1e-6, atol=1e-30
    )
    stands_for = jnp.asarray(kept)
    assert (stands_for.dtype, kept.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert stands_for.shape == kept.shape == KERNEL.shape and kept.ndim == 2
    np.testing.assert_array_equal(jnp.add(kept, 1), stands_for + 1)
    np.testing.assert_array_equal(jnp.ones(KERNEL.shape, jnp.bfloat16) + kept, stands_for + 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 3, 24, 16), (40, 17)])
def test_no_weight_is_off_by_more_than_half_a_step(shape, dtype):
    random = np.random.default_rng(0)
    kernel = (random.normal(size=shape) * np.exp(random.normal(size=shape[-1]))).astype(dtype)
    kept = quantize(kernel, jnp.float32)
    error = np.abs(kernel.astype(np.float32) - kept.astype(np.float32))
    assert (error <= kept.scale * 0.5001).all()
    assert (error.max(axis=tuple(range(len(shape) - 1))) > 0.2 * kept.scale.ravel()).all()
    assert (np.abs(kept.values).max(axis=tuple(range(len(shape) - 1))) == 127).all()


@pytest.mark.parametrize("make", [nn.Dense, lambda n: nn.Conv(n, (3, 3), padding=1)])
def test_a_layer_computes_with_the_rounded_kernel(make):
    hidden = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 8)), jnp.float32)
    layer = make(6)
    params = layer.init(jax.random.key(0), hidden)["params"]
    kept = quantize(params["kernel"], jnp.float32)
    rounded = layer.apply({"params": params | {"kernel": kept.astype(jnp.float32)}}, hidden)
    found = jax.jit(layer.apply)({"params": params | {"kernel": kept}}, hidden)
    np.testing.assert_allclose(found, rounded, atol=1e-5)
    exact = layer.apply({"params": params}, hidden)
    assert 0 < float(jnp.abs(found - exact).max()) < 0.05


def test_only_the_blocks_of_the_unet_are_in_int8(tiny_folder):
    place = choose_place("int8", jnp.bfloat16)
    sd = load_stable_diffusion(tiny_folder, jnp.bfloat16, place=place)
    for name in ("vae", "text_encoder", "image_encoder"):
        assert not any(isinstance(leaf, Quantized) for leaf in getattr(sd, name).params.values())
        leaves = jax.tree.leaves(getattr(sd, name).params)
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    leaves = leaf_paths(sd.unet.params)
    kept = {path for path, leaf in leaves.items() if isinstance(leaf, Quantized)}
    floats = {path for path in leaves if path.endswith(".kernel")} - kept
    assert {"conv_in.kernel", "conv_out.kernel"} == {path for path in floats if "time" not in path}
    assert any("time_emb_proj" in path for path in floats)
    for suffix in ("attn1.to_q", "attn2.to_out.0", "ff.net.2", "conv1", "conv_shortcut", "proj_in"):
        assert any(path.endswith(f".{suffix}.kernel") for path in kept), suffix
    assert {path.split(".")[0] for path in kept} == {"down_blocks", "mid_block", "up_blocks"}
    assert all(leaf.dtype == jnp.bfloat16 for leaf in leaves.values())


def test_what_is_in_int8_is_not_written(tiny_folder, tmp_path):
    sd = load_stable_diffusion(tiny_folder, place=choose_place("int8", jnp.float32))
    with pytest.raises(InputError, match="int8.*without quantization"):
        save_stable_diffusion(tmp_path / "copy", sd)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_another_quantization_is_refused():
    assert choose_place(None, jnp.float32) is None
    with pytest.raises(InputError, match="quantization='int4': must be 'int8'"):
        choose_place("int4", jnp.float32)
