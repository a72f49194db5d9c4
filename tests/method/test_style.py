"""A LoRA in MoA: which experts change, and that each then is what Stable Diffusion would be."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax.backbone.lora import merge_lora, read_lora
from moa_jax.backbone.unet import UNet
from moa_jax.errors import InputError
from moa_jax.method.mixture import FixedRouter, MixtureOfAttention, PersonalizedRouter
from moa_jax.method.style import apply_lora
from tests.backbone.loras import ATTENTION, draw, kohya, write

TEXT = {"text_model.encoder.layers.0": {"mlp": {"fc1": {"kernel": jnp.ones((24, 48))}}}}
ROUTERS = {"prior": partial(FixedRouter, weights=(1.0, 0.0)), "personalized": PersonalizedRouter}


@pytest.fixture(scope="module")
def params(scene):
    return {"unet": scene.params, "text_encoder": TEXT, "vae": {"empty": {}}}


@pytest.fixture(scope="module")
def base(scene):
    return {"unet": scene.prior, "text_encoder": TEXT}


@pytest.fixture(scope="module")
def everything(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    return read_lora(write(folder, kohya(draw(params)), "everything.safetensors"))


@pytest.fixture(scope="module")
def attention(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    drawn = draw(params, ATTENTION, seed=1)
    return read_lora(write(folder, kohya(drawn), "attention.safetensors"))


@pytest.fixture(scope="module")
def predict(scene):
    """Predict with the router held at an expert, or without mixtures; nobody is in the prompt."""
    nobody = scene.prompt._replace(tokens=jnp.full_like(scene.tokens, 7))

    @cache
    def compiled(held):
        if held is None:
            return jax.jit(UNet(scene.config).apply), scene.text
        mixed = partial(MixtureOfAttention, router=ROUTERS[held])
        return jax.jit(UNet(scene.config, mixed).apply), nobody

    def run(params, held=None):
        function, context = compiled(held)
        return np.asarray(
            function({"params": params["unet"]}, scene.latents, scene.timesteps, context)
        )

    return run


def changed(before, after):
    """The paths of the leaves that are not the same arrays."""
    before = flatten_dict(before)
    return {path for path, leaf in flatten_dict(after).items() if leaf is not before[path]}


def is_expert(path):
    return "personalized" in path


def test_both_experts_become_what_stable_diffusion_would(
    scene, params, base, everything, attention, predict
):
    for lora in (everything, attention):
        plain = predict(merge_lora(base, lora, 0.8))
        styled = apply_lora(params, lora, 0.8)
        np.testing.assert_array_equal(predict(styled, "prior"), plain)
        alone = predict(styled, "personalized")
        np.testing.assert_allclose(alone, plain, atol=1e-5 * np.abs(plain).max())
        assert np.abs(plain - predict(base)).max() > 0.1 * np.abs(plain).max()


def test_the_prior_alone(params, base, everything, attention, predict):
    plain = predict(merge_lora(base, attention))
    styled = apply_lora(params, attention, experts="prior")
    np.testing.assert_array_equal(predict(styled, "prior"), plain)
    np.testing.assert_array_equal(predict(styled, "personalized"), predict(params, "personalized"))
    paths = changed(params, apply_lora(params, everything, experts="prior"))
    assert not any(map(is_expert, paths))
    own = {path for path in flatten_dict(base) if path[-1] == "kernel"}
    assert paths == own  # every layer, the text encoder's too


def test_the_personalized_experts_alone(params, base, everything, attention, predict):
    plain = predict(merge_lora(base, attention))
    styled = apply_lora(params, attention, experts="personalized")
    alone = predict(styled, "personalized")
    np.testing.assert_allclose(alone, plain, atol=1e-5 * np.abs(plain).max())
    np.testing.assert_array_equal(predict(styled, "prior"), predict(params, "prior"))
    # A file that changes more: what the experts share stays.
    paths = changed(params, apply_lora(params, everything, experts="personalized"))
    kernels = {path for path in flatten_dict(params) if is_expert(path) and path[-1] == "kernel"}
    assert paths == kernels


def test_several_add_up_in_any_order(params, everything, attention):
    one = apply_lora(apply_lora(params, everything, 0.5), attention, -0.3)
    other = apply_lora(apply_lora(params, attention, -0.3), everything, 0.5)
    halves = apply_lora(one, everything, 0.25, "prior")
    halves = apply_lora(halves, everything, 0.25, "personalized")
    whole = flatten_dict(apply_lora(one, everything, 0.25))
    for path, leaf in flatten_dict(one).items():
        np.testing.assert_allclose(leaf, flatten_dict(other)[path], atol=1e-6)
        if is_expert(path):
            np.testing.assert_array_equal(flatten_dict(halves)[path], whole[path])


def test_taking_away_returns(params, everything):
    back = apply_lora(apply_lora(params, everything, 0.7), everything, -0.7)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(lambda was, now: np.testing.assert_allclose(now, was, atol=1e-6), params, back)


def test_every_leaf_keeps_its_dtype(params, everything):
    """A frozen prior is often bfloat16 beside experts in float32."""
    tree = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if "'personalized'" in str(path) else leaf.astype(jnp.bfloat16),
        params,
    )
    styled = apply_lora(tree, everything)
    for path, leaf in flatten_dict(styled).items():
        assert leaf.dtype == (jnp.float32 if is_expert(path) else jnp.bfloat16)


def refused(*arguments):
    with pytest.raises(InputError) as caught:
        apply_lora(*arguments)
    return str(caught.value)


def test_what_cannot_be_is_refused(params, base, everything, tmp_path):
    assert "experts='all': choose one of both, prior, personalized" in refused(
        params, everything, 1.0, "all"
    )
    assert "there are none, for no MoA weights are loaded" in refused(
        base, everything, 1.0, "personalized"
    )
    shared = read_lora(write(tmp_path, kohya(draw(params, r".*(conv1|fc1|net\.2)"))))
    text = refused(params, shared, 1.0, "personalized")
    assert "changes no attention of the U-Net, which is all that the personalized" in text
    assert "does not fit the base model" in refused({"unet": {}}, shared)


def test_plain_stable_diffusion_takes_both_and_prior(base, everything):
    merged = flatten_dict(merge_lora(base, everything, 0.5))
    for experts in ("both", "prior"):
        for path, leaf in flatten_dict(apply_lora(base, everything, 0.5, experts)).items():
            np.testing.assert_array_equal(leaf, merged[path])
