"""A LoRA in MoA: which experts change, and that each then is what Stable Diffusion would be.

And several in half precision: what is in force is rounded once, and what is taken back is gone.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax.backbone.lora import Lora, LowRank, merge_lora, read_lora
from moa_jax.backbone.unet import UNet
from moa_jax.errors import InputError
from moa_jax.method.mixture import MixtureOfAttention
from moa_jax.method.router import FixedRouter, PersonalizedRouter
from moa_jax.sampling.lora import Styles, apply_lora
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


LAYER = "lora_unet_block_attn2_to_k"
WEIGHTS = (0.9, -0.4, 0.7)


@pytest.fixture(scope="module")
def half():
    """One attention in bfloat16, of both experts."""
    kernels = np.random.default_rng(0).normal(size=(2, 96, 64)) / 8
    prior, personalized = ({"kernel": jnp.asarray(each, jnp.bfloat16)} for each in kernels)
    return {"unet": {"block": {"attn2": {"to_k": prior, "personalized": {"to_k": personalized}}}}}


@pytest.fixture(scope="module")
def weak():
    """LoRAs whose changes are 0.3 % of the weights, less than half of what bfloat16 can tell."""
    random = np.random.default_rng(1)
    loras = []
    for name in "abc":
        down, up = random.normal(size=(3, 96)), random.normal(size=(64, 3)) * 0.003 / 8 / 3**0.5
        factors = down.astype(np.float32), up.astype(np.float32)
        loras.append(Lora(name, {LAYER: LowRank(*factors, None, 0.5)}))
    return loras


def kernels(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def rounded_sum(kernel, loras, weights):
    """Add in float64, and round once."""
    for lora, weight in zip(loras, weights, strict=True):
        down, up, _, scale = lora.layers[LAYER]
        kernel = kernel + weight * scale * (up.astype(np.float64) @ down.astype(np.float64)).T
    return kernel.astype(jnp.bfloat16).astype(np.float64)


def put_in_force(styles, tree, loras, weights=WEIGHTS):
    for lora, weight in zip(loras, weights, strict=True):
        tree = styles.add(tree, lora, weight)
    return tree


def test_several_in_half_precision_are_the_sum_rounded_once(half, weak):
    styled = put_in_force(Styles(), half, weak)
    for before, after in zip(kernels(half), kernels(styled), strict=True):
        expected = rounded_sum(before, weak, WEIGHTS)
        # float32 may put what lies between two values to either side
        assert np.mean(after == expected) > 0.999
        np.testing.assert_allclose(after, expected, rtol=2**-7)
        one_by_one = before
        for lora, weight in zip(weak, WEIGHTS, strict=True):
            one_by_one = rounded_sum(one_by_one, [lora], [weight])
        assert np.mean(one_by_one == expected) < 0.95, "the case must tell the two apart"


def test_what_is_taken_back_is_gone_in_whatever_order(half, weak):
    first, second, third = weak
    for order in ([first, second, third], [third, first, second], [second, third, first]):
        styles = Styles()
        tree = put_in_force(styles, half, weak)
        for lora in order:
            before, left = tree, dict(zip("abc", WEIGHTS, strict=True))
            tree = styles.add(tree, lora, -left[lora.name])
            assert changed(before, tree)
        assert not changed(half, tree), "the same arrays"
    styles = Styles()
    tree = styles.add(put_in_force(styles, half, weak), second, 0.4)
    alone = put_in_force(Styles(), half, [first, third], (0.9, 0.7))
    jax.tree.map(np.testing.assert_array_equal, tree, alone)


def test_a_lora_is_taken_back_by_parts_and_by_experts(half, weak):
    styles, tree = Styles(), half
    for weight in (0.1, 0.2, -0.3):  # which do not add up to 0 in floats
        change = weak[0].layers[LAYER]
        again = change._replace(down=change.down.copy(), up=change.up.copy())
        again = Lora("again", {LAYER: again})
        tree = styles.add(tree, again, weight)
    assert not changed(half, tree)
    tree = styles.add(half, weak[0], 0.5)
    tree = styles.add(tree, weak[0], -0.5, "prior")
    assert all(map(is_expert, changed(half, tree)))
    assert not changed(half, styles.add(tree, weak[0], -0.5, "personalized"))


def test_replaced_weights_count_as_without_loras(half, weak):
    styles = Styles()
    put_in_force(styles, half, weak)
    other = jax.tree.map(lambda leaf: leaf + leaf, half)
    tree = styles.add(other, weak[0], 0.9)
    jax.tree.map(np.testing.assert_array_equal, tree, Styles().add(other, weak[0], 0.9))
    assert not changed(other, styles.add(tree, weak[0], -0.9))


def test_the_products_are_exact_on_a_tpu(half, weak):
    lowered = jax.jit(lambda tree: apply_lora(tree, weak[0])).lower(half).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


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
    assert "none has weights of its own here, as without MoA weights" in refused(
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
