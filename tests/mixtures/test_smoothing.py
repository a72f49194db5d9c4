"""One factor a channel for all that read it, and what int8 makes of a layer before and after."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax.backbone.attention_kernels import xla
from moa_jax.backbone.transformer import TransformerBlock
from moa_jax.errors import InputError
from moa_jax.method.variant import Variant
from moa_jax.mixtures.calibration import measures, measuring, peak
from moa_jax.mixtures.smoothing import (
    drift,
    enough,
    readers,
    round_weights,
    rounding,
    smooth,
)
from tests.mixtures.one_layer import HIDDEN, METHOD, move, prompt
from tests.mixtures.trained import trained

BLOCK = TransformerBlock(Variant().attention(METHOD, xla), heads=2, block=0)


@jax.jit
def predict(params):
    """The block's output, and the intermediates by path."""
    given = {"params": params["unet"]}
    output, state = BLOCK.apply(given, jnp.array(HIDDEN), prompt(), mutable=["intermediates"])
    sown = flatten_dict(state["intermediates"])
    return output, {".".join(path): values[0] for path, values in sown.items()}


@pytest.fixture(scope="module")
def block():
    """A block with channels that are large after the norm, and what its layers read."""
    params = move(jax.jit(BLOCK.init)(jax.random.key(0), jnp.array(HIDDEN), prompt())["params"])
    for norm in ("norm1", "norm2"):
        params[norm] = {name: leaf.copy() for name, leaf in params[norm].items()}
        params[norm]["scale"][3] *= 40
        params[norm]["scale"][11] *= 0.02
    params = {"unet": params}
    with measuring(peak):
        output, sown = predict(params)
    return params, output, sown


@pytest.mark.parametrize(
    ("norm", "layer", "names"), [("norm1", "attn1", "qkv"), ("norm2", "attn2", "q")]
)
def test_one_factor_serves_the_prior_the_experts_and_the_router(block, norm, layer, names):
    params, _, sown = block
    before = flatten_dict(params["unet"])
    after = flatten_dict(smooth(params, measures(sown), 0.3)["unet"])
    own = [(layer, *at, f"to_{name}", "kernel") for at in ((), ("personalized",)) for name in names]
    own.append((layer, "router", "logits", "kernel"))
    largest = np.abs(sown[f"{layer}.to_q.measured"])
    wanted = [
        max(largest[j] ** 0.3 / np.abs(before[each][j]).max() ** 0.7 for each in own)
        for j in range(16)
    ]
    for name in ("scale", "bias"):
        np.testing.assert_allclose(after[norm, name], before[norm, name] / wanted, rtol=1e-5)
    for path in after:
        if path[0] == layer:
            by = np.array(wanted)[:, None] if path in own else 1
            np.testing.assert_allclose(after[path], before[path] * by, rtol=1e-5)


def test_floats_stay_and_int8_is_nearer(block):
    params, exact, sown = block
    smoothed = smooth(params, measures(sown), 0.5)
    with measuring(peak):
        output, even = predict(smoothed)
    np.testing.assert_allclose(output, exact, atol=2e-4 * np.abs(exact).max())

    @jax.jit
    def rounded(params, peaks):
        with rounding(peaks):
            return predict(params)

    errors, drifts = [], []
    routing = {name: sown[f"{name}.routing"] for name in ("attn1", "attn2")}
    for given, peaks in ((params, sown), (smoothed, even)):
        found, seen = rounded(round_weights(given), measures(peaks))
        errors.append(float(jnp.mean((found - exact) ** 2)))
        drifts.append(float(drift(routing, {name: seen[f"{name}.routing"] for name in routing})))
    assert 0 < errors[1] < 0.5 * errors[0] and 0 < drifts[1] < 0.5 * drifts[0]


def test_attention_layers_read_whole_numbers_of_steps():
    class Layers(nn.Module):
        @nn.compact
        def __call__(self, source):
            made = (nn.Dense(4, use_bias=False, name=name) for name in ("attn1", "ff"))
            return [layer(source) for layer in made]

    source = jnp.array([[0.1, -3.0, 1.27, 0.004]])
    params = {name: {"kernel": jnp.eye(4)} for name in ("attn1", "ff")}
    with rounding({"attn1": jnp.array([1.0, 1.27, 0.5, 1.0])}):
        read, plain = Layers().apply({"params": params}, source)
    np.testing.assert_allclose(read, [[0.1, -1.27, 1.27, 0.0]], atol=1e-6)
    np.testing.assert_allclose(plain, source)


def test_the_drift_is_the_divergence():
    exact, found = (jnp.array([[[each]]]) for each in ([0.5, 0.5], [0.9, 0.1]))
    wanted = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert drift({"a": exact, "b": exact}, {"a": found, "b": exact}) == pytest.approx(wanted / 2)


def test_pictures_are_taken_until_every_expert_has_seen_enough():
    share = jnp.array([0.1, 0.0, 0.3, 0.6])[:, None, None]
    weights = jnp.broadcast_to(share, (4, 2, 2))
    routing = {"a": jnp.stack([1 - weights, weights], -1), "b": jnp.full((4, 2, 2, 2), 0.5)}
    assert enough(routing, 0.3) == 1 and enough(routing, 0.5) == 3 and enough(routing, 1.7) == 4
    with pytest.raises(InputError, match="least=9.0: after 4 pictures"):
        enough(routing, 9.0)


@pytest.mark.slow
@pytest.mark.nightly
def test_the_committed_moa_stays_and_has_little_to_smooth():
    toy = trained()

    @jax.jit
    def exactly(params):
        return toy.model.denoise(params, *toy.given)

    @jax.jit
    def rounded(params, peaks):
        with rounding(peaks):
            return toy.model.denoise(params, *toy.given)[0]

    with measuring(peak):
        exact, seen = exactly(toy.params)
    peaks = measures(seen.extra)
    counts = sorted(map(len, readers(flatten_dict(toy.params["unet"])).values()))
    assert counts == [3] * 7 + [7] * 7
    errors = {}
    for strength in (0.5, 1.0):
        smoothed = smooth(toy.params, peaks, strength)
        output, even = exactly(smoothed)
        np.testing.assert_allclose(output, exact, atol=1e-4)
        found = rounded(round_weights(smoothed), measures(even.extra))
        errors[strength] = float(jnp.mean((found - exact) ** 2))
    assert errors[1.0] < 5e-5 < errors[0.5] < 1e-3
