"""A pipeline in int8: what it draws with, what it holds, and what may be merged into it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax import Pipeline
from moa_jax.backbone.controlnet import ControlNet, ControlNetConfig
from moa_jax.backbone.quantization import Quantized
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.weights import save_params
from moa_jax.data.captions import IMAGE_MARKER
from moa_jax.errors import InputError
from moa_jax.method.trained import is_added, leaf_paths, map_paths
from moa_jax.sampling.options import parse_arguments
from moa_jax.sampling.record import write_json
from moa_jax.sampling.request import repeat
from moa_jax.sampling.settings import Steered
from moa_jax.toyworld import WEIGHTS
from moa_jax.toyworld.world.scenes import draw_subject
from tests.backbone.loras import draw, kohya, write
from tests.backbone.parity import relative_error
from tests.personal import MARKED, pixels, portrait


@pytest.fixture(scope="module")
def rounded(tiny_folder, moa_folder):
    return Pipeline.from_pretrained(tiny_folder, moa_folder, quantization="int8")


def by_hand(kernel):
    """Round to 255 steps a channel, as the module's documentation says, in float64."""
    exact = np.asarray(kernel, np.float64)
    step = np.abs(exact).max(axis=tuple(range(exact.ndim - 1))) / 127
    return (np.rint(exact / step) * step).astype(np.float32)


@pytest.mark.slow
def test_it_draws_as_the_rounded_weights_do(personal, rounded, tiny_folder, moa_folder):
    held = leaf_paths(rounded.params)
    assert sum(isinstance(leaf, Quantized) for leaf in held.values()) > 50
    floats = Pipeline.from_pretrained(tiny_folder, moa_folder)
    floats.params = map_paths(
        lambda path, leaf: by_hand(leaf) if isinstance(held[path], Quantized) else leaf,
        floats.params,
    )
    options = {"num_images": 2, "num_inference_steps": 4}
    subjects = [portrait(1), portrait(2)]
    found, expected, exact = (
        pixels(pipe(MARKED, subjects, **options)) for pipe in (rounded, floats, personal)
    )
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - exact).mean() > 2, "pictures of the exact weights would prove nothing"


@pytest.mark.slow
@pytest.mark.nightly  # minutes of drawing
def test_the_toy_worlds_pictures_are_nearly_the_same(optimized):
    exact, kept = (
        Pipeline.from_pretrained(WEIGHTS / "base", WEIGHTS / "moa", quantization=quantization)
        for quantization in (None, "int8")
    )
    sizes = [
        sum(leaf.nbytes for leaf in jax.tree.leaves(pipe.params["unet"])) for pipe in (exact, kept)
    ]
    assert sizes[1] < 0.4 * sizes[0]  # a quarter of what is not MoA's own
    prompt = f"a man {IMAGE_MARKER} and a woman {IMAGE_MARKER} waving on the beach"
    subjects = [draw_subject(9), draw_subject(10)]
    steered, noise = (
        Steered(2.5, 0.0),
        np.random.default_rng(0).normal(size=(2, 8, 8, 16)),
    )
    asked = (noise.astype(np.float32), np.array([900.0, 300.0], np.float32))
    conditions = exact._condition(
        exact.params, repeat(exact.request(prompt, subjects), 2), guided=True
    )
    expected, found = (
        pipe._predict(pipe.params, conditions, steered, *asked)[0] for pipe in (exact, kept)
    )
    assert relative_error(found, expected) < 0.03  # measured: 0.013
    options = {"num_images": 2, "num_inference_steps": 25, "sampler": "ddim", "guidance_scale": 2.5}
    expected, found = (pixels(pipe(prompt, subjects, **options)) for pipe in (exact, kept))
    assert expected.std() > 20
    assert np.abs(found - expected).mean() < 1.0  # of 255; measured: 0.5


def test_what_moa_adds_and_trained_keeps_its_floats(personal, rounded):
    exact, held = leaf_paths(personal.params), leaf_paths(rounded.params)
    assert exact.keys() == held.keys()
    for path, leaf in held.items():
        assert (leaf.shape, leaf.dtype) == (exact[path].shape, exact[path].dtype), path
        if isinstance(leaf, Quantized):
            assert path.startswith("unet.") and not is_added(path), path
        else:
            np.testing.assert_array_equal(leaf, exact[path])


def test_a_lora_is_merged_and_taken_back(rounded, personal, tmp_path):
    before = rounded.params
    changes = draw(personal.params, r".*(attn2\.to_k|conv1)")
    rounded.add_lora(write(tmp_path, kohya(changes), "style.safetensors"), 0.5)
    old, merged = flatten_dict(before["unet"]), flatten_dict(rounded.params["unet"])
    differing = [path for path in old if old[path] is not merged[path]]
    assert {path[-2] for path in differing} == {"to_k", "conv1"}
    for path in differing:
        name = ".".join(path[:-1]).replace(".personalized", "")
        down, up = changes["unet"][name]
        change = np.einsum("orxy,ri...->oi...", up.reshape(*up.shape[:2], 1, 1), down)
        change = 0.5 * np.moveaxis(change, (0, 1), (-1, -2))
        if isinstance(old[path], Quantized):
            assert isinstance(merged[path], Quantized)
            error = np.abs(jnp.asarray(merged[path]) - (jnp.asarray(old[path]) + change))
            assert (error <= 0.501 * merged[path].scale).all(), path
        else:
            assert "personalized" in path
            np.testing.assert_allclose(merged[path], old[path] + change, atol=1e-5)
    rounded.add_lora(tmp_path / "style.safetensors", -0.5)
    assert all(old[path] is leaf for path, leaf in flatten_dict(rounded.params["unet"]).items())


def test_a_controlnet_is_in_int8_too(tiny_folder, plain, tmp_path):
    named = {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": [4, 4, 4, 4]}
    keys = "block_out_channels layers_per_block norm_num_groups cross_attention_dim"
    config = {key: plain.base.unet.config[key] for key in f"{keys} attention_head_dim".split()}
    config |= named | {"down_block_types": plain.base.unet.config["down_block_types"]}
    module = ControlNet(ControlNetConfig.from_dict(config))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), parameter_shapes(module))
    save_params(tmp_path, params, config)
    pipe = Pipeline.from_pretrained(tiny_folder, controlnets=[tmp_path], quantization="int8")
    [held] = pipe.params["controlnets"]
    kept = {path for path, leaf in leaf_paths(held).items() if isinstance(leaf, Quantized)}
    assert {path.split(".")[0] for path in kept} == {"down_blocks", "mid_block"}
    inputs = (np.zeros((1, 8, 8, 4)), np.zeros(1), np.zeros((1, 7, 32)), np.zeros((1, 64, 64, 3)))
    applied = jax.eval_shape(module.apply, {"params": held}, *inputs)
    assert applied.middle.shape[:3] == (1, 4, 4)


def test_a_record_holds_the_option(tmp_path):
    basic = ["--base", "m", "--prompt", "a man"]
    assert parse_arguments(basic).quantization is None
    given = parse_arguments([*basic, "--quantization", "int8"])
    write_json(tmp_path / "run.json", vars(given))
    assert parse_arguments(["--from-json", str(tmp_path / "run.json")]).quantization == "int8"


def test_another_quantization_is_refused_before_anything_is_read():
    with pytest.raises(InputError, match="quantization='fp8'"):
        Pipeline.from_pretrained("nowhere", quantization="fp8")
