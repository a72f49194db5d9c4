"""Sparse routing: what is computed is what the dense mixture computes, the rest is the prior's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn.initializers import normal

from moa_jax.backbone.attention import Attention
from moa_jax.backbone.unet import UNet, UNetConfig, transformer_blocks
from moa_jax.errors import InputError
from moa_jax.method.mixture import Expert, MixtureOfAttention
from moa_jax.method.prompt import Prompt
from moa_jax.method.router import LinearRouter
from moa_jax.method.sparse import Sparse, put, take
from tests.backbone import full_size_configs

SHAPE = (2, 4, 3, 16)  # two pictures of twelve pixels
SIZES = {"heads": 2, "head_dim": 8}


class Uneven(LinearRouter):
    """Gives every pixel another weight; the second picture's are a tenth of the first's."""

    def __call__(self, hidden, context):
        order = np.random.default_rng(0).permutation(12)
        weights = np.stack([(order + 1) / 13, (order + 1) / 130]).reshape(2, 4, 3)
        return jnp.stack([1 - weights, weights], axis=-1).astype(jnp.float32)


def experts_apart(layer, params, hidden, said):
    """Compute the prior and the expert everywhere, by plain attention layers."""
    plain = Attention(**SIZES, cross=layer.cross)
    contexts = said.prompt.for_experts(0, ("personalized",))
    for own, context in zip((params, params["personalized"]), contexts, strict=True):
        projections = {name: leaf for name, leaf in own.items() if name.startswith("to_")}
        yield np.asarray(plain.apply({"params": projections}, hidden, context))


@pytest.fixture(scope="module", params=[False, True], ids=["self", "cross"])
def drawn(request, said):
    layer = MixtureOfAttention(**SIZES, cross=request.param, router=Uneven)
    hidden = jax.random.normal(jax.random.key(1), SHAPE)
    params = layer.init(jax.random.key(2), hidden, said.prompt)["params"]
    prior, expert = experts_apart(layer, params, hidden, said)
    weights = np.asarray(Uneven(2)(hidden, None)[..., 1])

    def mix(sparse):
        context = said.prompt._replace(sparse=sparse)
        mixed, state = layer.apply({"params": params}, hidden, context, mutable=["intermediates"])
        return np.asarray(mixed), np.asarray(state["intermediates"]["routing"][0])

    return mix, prior, expert, weights


@pytest.mark.parametrize(("capacity", "pixels"), [(0.25, 3), (0.26, 4), (0.01, 1)])
def test_the_pixels_of_most_weight_are_the_experts_and_the_rest_the_priors(drawn, capacity, pixels):
    mix, prior, expert, weights = drawn
    mixed, routing = mix(Sparse(0.0, capacity))
    flat = weights.reshape(2, 12)
    least = np.sort(flat)[:, -pixels, None]
    kept = np.where(flat >= least, flat, 0).reshape(weights.shape)[..., None]
    np.testing.assert_allclose(mixed, (1 - kept) * prior + kept * expert, atol=2e-6)
    np.testing.assert_allclose(routing, np.concatenate([1 - kept, kept], axis=-1), atol=1e-6)


def test_all_of_it_is_the_dense_mixture(drawn):
    mix, *_ = drawn
    dense, routing = mix(None)
    everything, kept = mix(Sparse(0.0, 1.0))
    np.testing.assert_allclose(everything, dense, atol=1e-6)
    np.testing.assert_array_equal(kept, routing)


@pytest.mark.parametrize("capacity", [0.5, 1.0])
def test_a_picture_below_the_threshold_is_the_priors_and_its_neighbour_unchanged(drawn, capacity):
    mix, prior, *_ = drawn
    both, _ = mix(Sparse(0.0, capacity))
    mixed, routing = mix(Sparse(0.1, capacity))  # the mean weights are 0.5 and 0.05
    np.testing.assert_allclose(mixed[0], both[0], atol=1e-6)
    np.testing.assert_allclose(mixed[1], prior[1], atol=1e-6)
    np.testing.assert_array_equal(routing[1], np.broadcast_to([1.0, 0.0], (4, 3, 2)))
    assert np.abs(both[1] - prior[1]).max() > 1e-3
    nothing, _ = mix(Sparse(0.6, capacity))
    np.testing.assert_allclose(nothing, prior, atol=1e-6)


def test_an_expert_that_nobody_needs_is_not_computed(said):
    """Infinite weights in it would show: they turn everything that they touch into NaN."""
    layer = MixtureOfAttention(**SIZES, cross=True, router=Uneven)
    hidden = jax.random.normal(jax.random.key(1), SHAPE)
    params = layer.init(jax.random.key(2), hidden, said.prompt)["params"]
    spoilt = {**params, "personalized": jax.tree.map(lambda x: x * np.inf, params["personalized"])}

    @jax.jit
    def run(sparse):
        return layer.apply({"params": spoilt}, hidden, said.prompt._replace(sparse=sparse))

    assert not np.isfinite(run(Sparse(0.1))).any(axis=(1, 2, 3)).all()
    assert np.isfinite(run(Sparse(0.6))).all()
    off = said.prompt._replace(sparse=Sparse(0.0), dial=jnp.zeros(3))
    assert np.isfinite(layer.apply({"params": spoilt}, hidden, off)).all()


def test_an_expert_that_applies_the_priors_projections_may_be_sparse(said):
    class Low(Expert):
        def project(self, source, name, width, bias=False):
            change = nn.Dense(width, use_bias=False, kernel_init=normal(0.1), name=f"{name}.change")
            return self.prior(source, name) + change(source)

    def layer(expert):
        experts = lambda block: {"personalized": expert}  # noqa: E731
        return MixtureOfAttention(**SIZES, experts=experts, router=Uneven)

    hidden = jax.random.normal(jax.random.key(1), SHAPE)
    params = layer(Low).init(jax.random.key(2), hidden, said.prompt)["params"]
    context = said.prompt._replace(sparse=Sparse(0.0, 0.5))
    found = layer(Low).apply({"params": params}, hidden, context)
    merged = {}  # a full expert with the changes added to the prior's kernels beforehand
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        change = params["personalized"][f"{name}.change"]["kernel"]
        merged[name] = {**params[name], "kernel": params[name]["kernel"] + change}
    full = {**params, "personalized": merged}
    expected = layer(Expert).apply({"params": full}, hidden, context)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_expert_that_needs_all_pixels_is_refused(said):
    class Own(Attention):
        prior: object = None

    layer = MixtureOfAttention(**SIZES, experts=lambda block: {"own": Own}, router=Uneven)
    hidden = jnp.zeros(SHAPE)
    params = layer.init(jax.random.key(2), hidden, said.prompt)
    sparse = said.prompt._replace(sparse=Sparse(0.0, 0.5))
    with pytest.raises(InputError, match="Own cannot attend .* capacity=1"):
        layer.apply(params, hidden, sparse)
    layer.apply(params, hidden, said.prompt._replace(sparse=Sparse(0.2)))


def test_several_experts_have_pixels_of_their_own():
    weights = np.array([[[0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.5, 0.3, 0.2]]], np.float32)[None]
    routing, chosen = Sparse(0.0, 1 / 3).keep(jnp.asarray(weights))
    expected = [[[0.4, 0.6, 0.0], [0.3, 0.0, 0.7], [1.0, 0.0, 0.0]]]
    np.testing.assert_allclose(routing, [expected], atol=1e-6)
    assert [each.tolist() for each in chosen] == [[[0]], [[1]]]


def test_put_undoes_take():
    values = np.arange(24.0).reshape(2, 4, 3)
    places = np.array([[2, 0], [1, 3]])
    back = put(take(jnp.asarray(values), jnp.asarray(places)), jnp.asarray(places), 4)
    kept = np.zeros((2, 4, 1))
    kept[[0, 0, 1, 1], places.ravel()] = 1
    np.testing.assert_array_equal(back, kept * values)


@pytest.mark.slow
def test_what_a_sparse_pass_of_full_size_costs():
    """At 512 pixels, GMAC: what is left of 500 are the plain pass and these products."""
    config = UNetConfig.from_dict(full_size_configs.UNET_SD15)
    shape = jax.ShapeDtypeStruct
    latents, times = shape((1, 64, 64, 4), jnp.float32), shape((1,), jnp.int32)
    blocks = len(transformer_blocks(config))
    prompt = Prompt(shape((1, 77, 768), jnp.float32), shape((1, blocks, 4, 768), jnp.float32),
                    shape((1, 4), jnp.int32), times)  # fmt: skip
    unet = UNet(config, MixtureOfAttention)
    params = jax.eval_shape(unet.init, jax.random.key(0), latents, times, prompt)

    @jax.jit
    def run(params, latents, times, prompt):
        return unet.apply(params, latents, times, prompt._replace(sparse=Sparse(0.0, 0.25)))

    cost = run.lower(params, latents, times, prompt).cost_analysis()
    expected = 394.8
    for side, width, count in ((64, 320, 5), (32, 640, 5), (16, 1280, 5), (8, 1280, 1)):
        pixels, some = side**2, side**2 // 4
        own = 2 * some * width**2 + 2 * pixels * width**2 + 2 * some * pixels * width
        text = 2 * some * width**2 + 2 * 77 * 768 * width + 2 * some * 77 * width
        expected += count * (own + text) / 1e9
    np.testing.assert_allclose(cost["flops"] / 2e9, expected, rtol=3e-3)
