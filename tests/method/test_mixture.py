"""What users rely on: the prior is kept, to the bit, and the router alone decides who draws."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.backbone.attention import Attention
from moa_jax.backbone.unet import UNet
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert, MixtureOfAttention, mix, turn
from moa_jax.method.model import build
from moa_jax.method.router import (
    ROUTERS,
    FixedRouter,
    LinearRouter,
    MLPRouter,
    PersonalizedRouter,
    initial_logits,
)
from moa_jax.testing import small_stable_diffusion


def unet(scene, router=LinearRouter, dtype=jnp.float32):
    return UNet(scene.config, partial(MixtureOfAttention, router=router), dtype)


def predict(model, params, scene, context):
    apply = jax.jit(model.apply)
    return np.asarray(apply({"params": params}, scene.latents, scene.timesteps, context))


def test_mix_weighs_pixel_by_pixel():
    prior, personalized = jnp.full((1, 1, 2, 3), 2.0), jnp.full((1, 1, 2, 3), 10.0)
    routing = jnp.array([[[[1.0, 0.0], [0.25, 0.75]]]])
    expected = [[[[2.0] * 3, [8.0] * 3]]]
    np.testing.assert_array_equal(mix([prior, personalized], routing), expected)
    low = mix([prior.astype(jnp.bfloat16), personalized.astype(jnp.bfloat16)], routing)
    assert low.dtype == jnp.bfloat16


def test_turning_multiplies_what_is_added_and_leaves_the_rest_to_the_prior():
    routing = jnp.array([[[[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]]])
    for dial, expected in (
        (0.0, [[1.0, 0.0, 0.0]] * 3),
        (0.5, [[0.75, 0.15, 0.1], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]]),
        (1.0, routing[0, 0]),
        (1.5, [[0.25, 0.45, 0.3], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]),
        (9.0, [[0.0, 0.6, 0.4], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]),
    ):
        np.testing.assert_allclose(turn(routing, dial)[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_routing_held_at_the_prior_is_stable_diffusion_to_the_bit(scene, dtype):
    """Subjects are in the prompt, experts differ from the prior; none of it may show."""
    flat = flatten_dict(scene.params)
    moved = {p: leaf + 1 if "personalized" in p else leaf for p, leaf in flat.items()}
    held = unet(scene, partial(FixedRouter, weights=(1.0, 0.0)), dtype)
    plain = predict(UNet(scene.config, dtype=dtype), scene.prior, scene, scene.text)
    mixed = predict(held, unflatten_dict(moved), scene, scene.prompt)
    np.testing.assert_array_equal(plain, mixed)


def test_a_single_branch_never_asks_the_prior(scene):
    """What only the prior's attention reads may change; what the expert reads may not."""

    def move(chosen):
        flat = flatten_dict(scene.params)
        return unflatten_dict({p: leaf + 1 if chosen(p) else leaf for p, leaf in flat.items()})

    single = unet(scene, PersonalizedRouter)
    given = predict(single, scene.params, scene, scene.prompt)
    attention = {"attn1", "attn2"}
    prior = move(lambda path: attention & set(path) and "personalized" not in path)
    np.testing.assert_array_equal(predict(single, prior, scene, scene.prompt), given)
    expert = move(lambda path: "personalized" in path)
    assert np.abs(predict(single, expert, scene, scene.prompt) - given).max() > 0.01


def test_fresh_experts_are_stable_diffusion_under_any_routing(scene):
    """With no subject, both experts attend to the same text; routers are drawn at random."""
    nobody = scene.prompt._replace(tokens=jnp.full_like(scene.tokens, 7))
    plain = predict(UNet(scene.config), scene.prior, scene, scene.text)
    mixed = predict(unet(scene), scene.params, scene, nobody)
    np.testing.assert_allclose(plain, mixed, atol=1e-5 * np.abs(plain).max())
    subjects = predict(unet(scene), scene.params, scene, scene.prompt)
    assert np.abs(plain - subjects).max() > 1e-3 * np.abs(plain).max()


def test_the_tree_without_what_moa_adds_is_stable_diffusions(scene):
    added = {"personalized", "router"}
    rest = {p: v for p, v in flatten_dict(scene.params).items() if not added & set(p)}
    assert rest.keys() == flatten_dict(scene.prior).keys()


def test_each_expert_alone_gives_its_own_answer(said):
    """Three experts, a context and a name for each; the prior's weights have no name."""

    class ThreeContexts:
        tokens, dial, sparse = said.tokens, None, None

        def for_experts(self, block, experts):
            return (*said.prompt.for_experts(block, experts[:1]), 2 * said.text)

    def layer(*weights):
        router = partial(FixedRouter, weights=weights)
        experts = lambda block: {"personalized": Expert, "style": Expert}  # noqa: E731
        return MixtureOfAttention(heads=2, head_dim=8, cross=True, experts=experts, router=router)

    hidden = jax.random.normal(jax.random.key(1), (2, 4, 3, 16))
    params = layer(1.0, 0.0, 0.0).init(jax.random.key(2), hidden, ThreeContexts())["params"]
    plain = Attention(heads=2, head_dim=8, cross=True)
    contexts = ThreeContexts().for_experts(0, ("personalized", "style"))
    for expert, own in enumerate((params, params["personalized"], params["style"])):
        projections = {name: leaf for name, leaf in own.items() if name.startswith("to_")}
        alone = plain.apply({"params": projections}, hidden, contexts[expert])
        chosen = layer(*(float(expert == place) for place in range(3)))
        mixed = chosen.apply({"params": params}, hidden, ThreeContexts())
        np.testing.assert_allclose(mixed, alone, atol=1e-6)


def test_a_router_is_told_its_block_and_sees_the_layers_input(said):
    seen = []

    class Spy(FixedRouter):
        def __call__(self, hidden, context):
            seen.append((self.block, self.experts, hidden, context))
            return super().__call__(hidden, context)

    def build(hidden):
        layer = MixtureOfAttention(heads=2, head_dim=8, cross=True, block=3, router=Spy)
        layer.init(jax.random.key(0), hidden, said.prompt)
        ((block, experts, given, context),) = seen
        assert (block, experts) == (3, 2)
        assert given is hidden and context is said.prompt

    jax.eval_shape(build, jnp.zeros((2, 4, 3, 16)))


def test_the_dial_of_its_own_block_turns_a_layer_and_what_it_shows(said):
    even = partial(FixedRouter, weights=(0.5, 0.5))
    layer = MixtureOfAttention(heads=2, head_dim=8, cross=True, block=1, router=even)
    hidden = jax.random.normal(jax.random.key(1), (2, 4, 3, 16))
    params = layer.init(jax.random.key(2), hidden, said.prompt)["params"]
    turned = said.prompt._replace(dial=jnp.array([1.0, 0.5, 2.0]))
    _, state = layer.apply({"params": params}, hidden, turned, mutable=["intermediates"])
    (routing,) = state["intermediates"]["routing"]
    np.testing.assert_array_equal(routing, np.broadcast_to([0.75, 0.25], (2, 4, 3, 2)))


def test_every_expert_attends_by_the_function_that_is_handed_in(said):
    calls = []

    def attend(query, key, value):
        calls.append(key.shape[1])
        return query

    layer = MixtureOfAttention(heads=2, head_dim=8, cross=True, attend=attend)
    jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((2, 4, 3, 16)), said.prompt)
    assert calls == [7, 7]


def test_a_context_for_another_number_of_experts_is_refused(said):
    class OneContext:
        tokens, dial, sparse = said.tokens, None, None

        def for_experts(self, block, experts):
            return [said.text]

    layer = MixtureOfAttention(heads=2, head_dim=8, cross=True)
    hidden = jnp.zeros((2, 4, 3, 16))
    with pytest.raises(ValueError, match="1 experts; the mixture has 2"):
        layer.init(jax.random.key(0), hidden, OneContext())


@pytest.mark.parametrize("router", [LinearRouter, MLPRouter])
def test_routers_start_near_the_prior_and_learn(router):
    hidden = jax.random.normal(jax.random.key(0), (2, 4, 3, 16))
    module = router(experts=2, initial_personalized_weight=0.2)
    params = module.init(jax.random.key(1), hidden, None)
    routing = module.apply(params, hidden, None)
    np.testing.assert_allclose(routing[..., 1], np.full((2, 4, 3), 0.2), atol=1e-6)
    target = (hidden[..., 0] > 0).astype(jnp.float32)

    def error(params):
        return jnp.mean((module.apply(params, hidden, None)[..., 1] - target) ** 2)

    for _ in range(60):
        gradients = jax.grad(error)(params)
        params = jax.tree.map(lambda p, g: p - 2.0 * g, params, gradients)
    assert error(params) < 0.5 * error(module.init(jax.random.key(1), hidden, None))


def test_the_mlp_router_is_an_mlp():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    shapes = {"hidden": (6, 6), "logits": (6, 2)}
    params = {
        name: {"kernel": random.normal(size=shape), "bias": random.normal(size=shape[1])}
        for name, shape in shapes.items()
    }
    hidden = random.normal(size=(1, 3, 4, 6))
    params, hidden = jax.tree.map(lambda leaf: leaf.astype(np.float32), (params, hidden))
    found = MLPRouter(experts=2).apply({"params": params}, jnp.asarray(hidden), None)
    weights = jax.tree.map(torch.tensor, params)
    inner = torch.tensor(hidden) @ weights["hidden"]["kernel"] + weights["hidden"]["bias"]
    logits = torch.nn.functional.gelu(inner) @ weights["logits"]["kernel"]
    expected = torch.softmax(logits + weights["logits"]["bias"], -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_fixed_routers_hold_what_their_names_say():
    hidden = jnp.zeros((1, 1, 1, 4))
    np.testing.assert_array_equal(FixedRouter(experts=2)(hidden, None)[0, 0, 0], [1, 0])
    single = ROUTERS["personalized"](experts=2, initial_personalized_weight=0.1)
    np.testing.assert_array_equal(single(hidden, None)[0, 0, 0], [0, 1])
    assert (ROUTERS["linear"], ROUTERS["mlp"]) == (LinearRouter, MLPRouter)


def test_added_experts_share_the_initial_weight():
    weights = jax.nn.softmax(initial_logits(4, 0.3))
    np.testing.assert_allclose(weights, [0.7, 0.1, 0.1, 0.1], rtol=1e-6)


def test_experts_copy_the_prior_in_float32():
    base = small_stable_diffusion()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base.unet.params)
    base = replace(base, unet=replace(base.unet, params=half))
    method = MethodConfig(image_encoder_layers=0)
    model, params = build(base, method, dtype=jnp.bfloat16, key=jax.random.key(0))
    flat = flatten_dict(params["unet"])
    copies = {path: leaf for path, leaf in flat.items() if "personalized" in path}
    # Each of the U-Net's attention layers has four kernels and one bias.
    assert len(copies) == 5 * 2 * len(model.blocks)
    for path, leaf in copies.items():
        prior = flat[tuple(part for part in path if part != "personalized")]
        assert leaf.dtype == jnp.float32
        assert prior.dtype == jnp.bfloat16
        np.testing.assert_array_equal(leaf, prior.astype(jnp.float32))


def test_observed_attention_is_what_the_expert_used(said):
    """The sown weights of a subject's word, against the softmax computed by hand."""
    layer = MixtureOfAttention(heads=2, head_dim=8, cross=True)
    hidden = jax.random.normal(jax.random.key(1), (2, 4, 3, 16))
    variables = layer.init(jax.random.key(2), hidden, said.prompt)
    params = variables["params"]
    _, state = layer.apply({"params": params}, hidden, said.prompt, mutable=["intermediates"])
    (observed,) = state["intermediates"]["personalized"]["attention"]
    context = np.asarray(said.prompt.for_experts(0, ("personalized",))[1])
    expert = jax.tree.map(np.asarray, params["personalized"])
    query = (np.asarray(hidden) @ expert["to_q"]["kernel"]).reshape(2, 4, 3, 2, 8)
    key = (context @ expert["to_k"]["kernel"]).reshape(2, 7, 2, 8)
    logits = np.einsum("bhwnd,bsnd->bnhws", query, key) / np.sqrt(8)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(observed[0, ..., 0], weights[0, ..., 1], atol=1e-5)
    np.testing.assert_allclose(observed[0, ..., 1], weights[0, ..., 4], atol=1e-5)
    np.testing.assert_allclose(observed[1, ..., 0], weights[1, ..., 2], atol=1e-5)
    np.testing.assert_array_equal(observed[1, ..., 1], np.zeros((2, 4, 3)))
