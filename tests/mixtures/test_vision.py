"""Subjects read from their portraits by several networks, against numpy."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.clip import VisionConfig, VisionEncoder, normalize_pixels
from moa_jax.errors import InputError
from moa_jax.method.prompt import SubjectPrompt
from moa_jax.method.variant import resolve
from moa_jax.mixtures.portraits import TokensExpert, further_places, look_closely, split_features
from moa_jax.mixtures.vision import VisionExpertsPrompt
from moa_jax.testing.tried import SIZES, small_stable_diffusion
from tests.mixtures.one_layer import HIDDEN, attend, dense, move, normal, softmax

WIDTH, TOKENS, TIMES = 16, np.array([[1, 4], [2, 9]]), np.array([300, 700])
MAPS = (("patches", 12), ("latents", 6))
TEXT, FEATURES = normal(1, 2, 9, WIDTH), normal(2, 2, 2, 5 + 4 * 12 + 4 * 6)
GIVEN = tuple(jnp.array(each) for each in (TEXT, FEATURES, TOKENS, TIMES))
PLAIN = SubjectPrompt(layers=2)


class Encoders(NamedTuple):
    image_encoder: nn.Module
    vae: nn.Module


def make(**options):
    sizes = {"maps": MAPS, "grid": 2, "count": 3, "keep": 2}
    return VisionExpertsPrompt(layers=2, **sizes | options)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(make().init)(jax.random.key(0), *GIVEN)["params"]


def tell(module, params, features=FEATURES):
    """What prior and expert read in the second block, and the prompt."""
    apply = jax.jit(lambda params, *given: module.apply({"params": params}, *given))
    prompt = apply(params, GIVEN[0], jnp.array(features), *GIVEN[2:])
    return [np.asarray(each) for each in prompt.for_experts(1, ("personalized",))], prompt


def plain_prompt(params):
    """MoA's, of the pooled features alone."""
    own = {name: params[name] for name in ("fusion", "conditioning")}
    return PLAIN.apply({"params": own}, GIVEN[0], GIVEN[1][..., :5], *GIVEN[2:])


def normalised(own, values):
    centred = values - values.mean(-1, keepdims=True)
    return centred / np.sqrt(values.var(-1, keepdims=True) + 1e-5) * own["scale"] + own["bias"]


def gelu(values):
    return np.asarray(jax.nn.gelu(values, approximate=False))


def read(own, queries, tokens):
    """Attention of four heads from "L D" to "S W"."""
    known = normalised(own["norm"], dense(own["into"], tokens) + own["places"])
    q, k, v = (
        dense(own[name], side).reshape(-1, 4, WIDTH // 4)
        for name, side in (("to_q", queries), ("to_k", known), ("to_v", known))
    )
    weights = softmax(np.einsum("lnd,snd->nls", q, k) / np.sqrt(WIDTH // 4))
    return np.einsum("nls,snd->lnd", weights, v).reshape(queries.shape)


def told(params, gates_of):
    """The expert's text in the second block, place by place."""
    subjects, expected = np.asarray(plain_prompt(params).subjects)[:, 1], TEXT.copy()
    for row, column in ((0, 0), (0, 1), (1, 0)):  # the second picture has one subject
        maps = np.split(FEATURES[row, column, 5:], [4 * 12])
        known = normalised(params["norm_query"], subjects[row, column])
        gates = gates_of(softmax(dense(params["gate"], known)))
        queries = known + params["tokens"]
        found = queries.copy()
        for gate, name, each in zip(gates, ("patches", "latents"), maps, strict=True):
            found += gate * read(params[f"read_{name}"], queries, each.reshape(4, -1))
        out = params["out"]
        change = dense(out["fc2"], gelu(dense(out["fc1"], normalised(out["norm"], found))))
        expected[row, TOKENS[row, column]] = subjects[row, column] + change[0]
        for place, added in zip((8 - 2 * column, 7 - 2 * column), change[1:], strict=True):
            expected[row, place] += added
    return expected


def test_tokens_read_each_map_by_its_gate(fresh):
    params = move(fresh)
    (prior, expert), _ = tell(make(), params)
    np.testing.assert_array_equal(prior, TEXT)
    np.testing.assert_allclose(expert, told(params, lambda gates: gates), atol=2e-5)
    assert np.abs(expert - np.asarray(plain_prompt(params).for_experts(1, "a")[1])).max() > 0.1
    (_, one), _ = tell(make(keep=1), params)
    best = told(params, lambda gates: (gates == gates.max()).astype(np.float32))
    np.testing.assert_allclose(one, best, atol=2e-5)


def test_at_the_start_the_prompt_is_moas(fresh):
    (_, expert), prompt = tell(make(), fresh)
    plain = jax.jit(lambda params: plain_prompt(params))(fresh)
    np.testing.assert_array_equal(expert, plain.for_experts(1, ("personalized",))[1])
    assert prompt.subjects.shape == (2, 2, 9, WIDTH)  # a text for each block


def test_a_map_that_the_gate_leaves_out_has_no_gradient(fresh):
    params = move(fresh)
    bias = {"kernel": np.zeros((WIDTH, 2), np.float32), "bias": np.array([2.0, 1.0], np.float32)}
    params = params | {"gate": bias}

    @partial(jax.grad, argnums=(0, 1))
    def slope(params, features):
        prompt = make(keep=1).apply({"params": params}, GIVEN[0], features, *GIVEN[2:])
        return jnp.sum(jnp.square(prompt.subjects))

    of_params, of_features = jax.jit(slope)(params, FEATURES)
    for name, reached in (("read_patches", True), ("read_latents", False)):
        sizes = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of_params[name])]
        assert (min(sizes) > 0) if reached else (max(sizes) == 0), name
    patches, latents = of_features[..., 5 : 5 + 48], of_features[..., 5 + 48 :]
    assert jnp.abs(patches[0]).max() > 0 and jnp.abs(latents).max() == 0
    assert jnp.abs(of_features[1, 1]).max() == 0  # there is no such subject


def test_what_is_seen_of_a_portrait_is_found_again():
    base = small_stable_diffusion()
    networks = Encoders(base.image_encoder.module, base.vae.module)
    params = {"image_encoder": base.image_encoder.params, "vae": base.vae.params}
    side, wide = SIZES.size, {"patches": 20, "latents": 6}
    images = np.random.default_rng(0).integers(0, 256, (1, 2, side, side, 3), np.uint8)

    def see(grid):
        look = jax.jit(lambda params, images: look_closely(networks, params, images, wide, grid))
        return split_features(look(params, images), wide, grid)

    pooled, maps = see(grid=2)
    pixels = np.asarray(normalize_pixels(images[0]))
    exact = base.image_encoder.module.apply({"params": params["image_encoder"]}, jnp.array(pixels))
    np.testing.assert_allclose(pooled[0], exact, atol=1e-5)
    # One layer: its input is the normalised embeddings. Patches are 16 pixels wide.
    tower = params["image_encoder"]
    embeddings = tower["vision_model.embeddings"]
    cut = pixels.reshape(2, 2, 16, 2, 16, 3).swapaxes(2, 3).reshape(2, 4, -1)
    kernel = np.asarray(embeddings["patch_embedding"]["kernel"]).reshape(-1, 16)
    placed = cut @ kernel + np.asarray(embeddings["position_embedding"]["embedding"])[1:]
    expected = normalised(jax.tree.map(np.asarray, tower["vision_model.pre_layrnorm"]), placed)
    np.testing.assert_allclose(maps["patches"][0, ..., :16], expected, atol=1e-4)
    np.testing.assert_array_equal(maps["patches"][..., 16:], 0)
    _, finer = see(grid=4)
    mean, _ = base.vae.module.apply(
        {"params": params["vae"]}, jnp.array(images[0] / 127.5 - 1, jnp.float32), method="encode"
    )
    scaled = base.vae.module.config.scaling_factor * np.asarray(mean).reshape(2, 16, 4)
    np.testing.assert_allclose(finer["latents"][0, ..., :4], scaled, atol=1e-4)


def test_patches_are_those_that_enter_the_last_layer():
    config = VisionConfig(32, 16, 8, 16, 32, 2, 2)
    encoder = VisionEncoder(config)
    params = encoder.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    networks = Encoders(encoder, encoder)
    images = jnp.array(np.random.default_rng(0).integers(0, 256, (1, 1, 32, 32, 3), np.uint8))

    @jax.jit
    def see(params):
        flat = look_closely(networks, {"image_encoder": params}, images, {"patches": 16}, 2)
        return split_features(flat, {"patches": 16}, 2)

    pooled, maps = see(params)
    for layer, patches_move in ((0, True), (1, False)):
        name = f"vision_model.encoder.layers.{layer}"
        other, seen = see(params | {name: jax.tree.map(lambda leaf: leaf + 0.1, params[name])})
        assert jnp.abs(other - pooled).max() > 0
        assert (jnp.abs(seen["patches"] - maps["patches"]).max() > 0) == patches_move


def test_tokens_that_are_too_wide_are_refused():
    config = VisionConfig(32, 16, 8, 16, 32, 2, 2)
    encoder = VisionEncoder(config)
    networks = Encoders(encoder, encoder)
    params = {"image_encoder": encoder.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]}
    with pytest.raises(InputError, match=r"widths=\(8,\) must be 16 or more for patches"):
        look_closely(networks, params, jnp.zeros((1, 1, 32, 32, 3), jnp.uint8), {"patches": 8}, 2)


def test_the_attention_to_all_tokens_of_a_subject_is_observed():
    hidden, text = jnp.array(HIDDEN), jnp.array(TEXT)
    expert = TokensExpert(heads=2, head_dim=8, cross=True, count=3)
    watch = jnp.array([[1, 4], [2, 9]])
    params = expert.init(jax.random.key(0), hidden, text, watch)["params"]
    output, state = expert.apply({"params": params}, hidden, text, watch, mutable=["intermediates"])
    np.testing.assert_allclose(output, attend(params, TEXT), atol=1e-5)
    own = jax.tree.map(np.asarray, params)
    query = dense(own["to_q"], HIDDEN.reshape(2, 16, 16)).reshape(2, 16, 2, 8)
    key = dense(own["to_k"], TEXT).reshape(2, 9, 2, 8)
    weights = softmax(np.einsum("blnd,bsnd->bnls", query, key) / np.sqrt(8))
    (seen,) = state["intermediates"]["attention"]
    assert seen.shape == (2, 2, 4, 4, 2)
    for row, column, places in ((0, 0, [1, 8, 7]), (0, 1, [4, 6, 5]), (1, 0, [2, 8, 7])):
        expected = weights[row][..., places].sum(-1).reshape(2, 4, 4)
        np.testing.assert_allclose(seen[row, ..., column], expected, atol=1e-5)
    np.testing.assert_array_equal(seen[1, ..., 1], 0)


def test_a_short_text_has_no_place_for_further_tokens():
    places = further_places(jnp.array([[0, 2]]), 2, 2)
    np.testing.assert_array_equal(places, [[[1, 0], [2, 2]]])
    assert (np.asarray(further_places(jnp.array([[0, 1]]), 2, 3))[0, 1] < 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("vision=()", "vision="),
        ("vision=('depth',)", "vision="),
        ("widths=(128,)", "widths="),
        ("grid=0", "grid=0"),
        ("count=0", "count=0"),
        ("keep=3", "keep=3"),
    ],
)
def test_options_without_a_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        resolve(f"moa_jax.mixtures.vision:VisionExperts({options})")
