"""Gates over several adapters, in front of every projection."""

import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.method.variant import Forward, Observations
from moa_jax.mixtures.gates import Meteora
from tests.mixtures.one_layer import (
    HIDDEN,
    attend,
    dense,
    layer_of,
    mix_values,
    move,
    normal,
    prompt,
    run,
    softmax,
    start,
)

QUERIES = HIDDEN.reshape(2, 16, 16)


def gated(params, source, name):
    """A projection with the two best of three adapters of rank 2, weighed by the gate."""
    own = params["personalized"]
    logits = source @ own[f"router.{name}"]["kernel"]
    least = logits == logits.min(-1, keepdims=True)
    weights = softmax(np.where(least, -np.inf, logits))
    down, up = (own[f"{name}.{each}"]["kernel"] for each in ("down", "up"))
    each = [source @ down[:, 2 * n : 2 * n + 2] @ up[2 * n : 2 * n + 2] for n in range(3)]
    change = sum(weights[..., n, None] * part for n, part in enumerate(each))
    return dense(params[name], source) + 0.5 * change, logits


@pytest.mark.parametrize("cross", [False, True])
def test_every_projection_chooses_its_adapters(cross):
    said, layer = prompt(), layer_of(Meteora(number=3, rank=2, scale=0.5), cross)
    params = move(start(layer, said))
    words = np.asarray(said.for_experts(0, ("personalized",))[1])
    source = words if cross else QUERIES
    (query, seen), (key, _), (value, read) = (
        gated(params, given, name)
        for given, name in ((QUERIES, "to_q"), (source, "to_k"), (source, "to_v"))
    )
    output, _ = gated(params, mix_values(query, key, value), "to_out.0")
    mixed, sown = run(layer, params, said)
    weights = sown["routing"][0]
    prior = attend(params, said.text, cross=cross)
    expected = weights[..., :1] * prior + weights[..., 1:] * output.reshape(HIDDEN.shape)
    np.testing.assert_allclose(mixed, expected, atol=2e-5)
    np.testing.assert_allclose(sown["personalized"]["gate.to_q"][0], seen, atol=1e-5)
    np.testing.assert_allclose(sown["personalized"]["gate.to_v"][0], read, atol=1e-5)
    assert sown["personalized"]["gate.to_out.0"][0].shape == (2, 16, 3)


def forward(extra, alone=False):
    """Two pictures of 4x4 latents: a man left and a kid right; then a word of no adapter.

    The second subject of the second picture is absent, and its place is after the last word. With
    `alone`, the first picture has the kid everywhere, and the man's mask is empty.
    """
    masks = np.zeros((2, 2, 4, 4), np.float32)
    masks[0, 0, :, :2], masks[0, 1, :, 2:], masks[1] = 1 - alone, 1, 1
    masks[0, 1, :, :2] = alone
    batch = {
        "input_ids": jnp.array([[9, 20, 9, 9, 22, 9], [9, 9, 30, 9, 9, 20]]),
        "subject_tokens": jnp.array([[1, 4], [2, 6]]),
        "subject_present": jnp.array([[True, True], [True, False]]),
        "masks": jnp.array(masks),
    }
    latents, times = jnp.zeros((2, 4, 4, 4)), jnp.zeros(2)
    union = jnp.zeros((2, 4, 4))
    return Forward(latents, latents, times, Observations({}, {}, extra), batch, union)


def logged(logits, adapter):
    return -np.log(softmax(logits)[..., adapter])


def test_gates_are_told_whose_subject_they_look_at():
    variant = Meteora(words=((20, 21), (23,), (22,)), supervision=2.0)
    fine, coarse, words = normal(1, 2, 16, 3), normal(2, 2, 4, 3), normal(3, 2, 6, 3)
    left, right = logged(fine[0], 0).reshape(4, 4)[:, :2], logged(fine[0], 2).reshape(4, 4)[:, 2:]
    of_fine = (left.mean() + right.mean()) / 2
    of_coarse = logged(coarse[0], 2).mean()
    of_words = (logged(words[0, 1], 0) + logged(words[0, 4], 2)) / 2

    def loss(name, logits, alone=False):
        seen = {f"up.{name}": jnp.array(logits), "up.attn1.router.other": jnp.ones(3)}
        return float(variant.losses(forward(seen, alone))["gates"])

    # The mean over two pictures, of which one has no label; times two.
    close = {"rtol": 1e-4}
    np.testing.assert_allclose(loss("attn1.personalized.gate.to_k", fine), of_fine, **close)
    np.testing.assert_allclose(
        loss("attn2.personalized.gate.to_q", coarse, True), of_coarse, **close
    )
    np.testing.assert_allclose(loss("attn2.personalized.gate.to_k", words), of_words, **close)
    both = {
        "up.attn1.personalized.gate.to_q": jnp.array(fine),
        "up.attn2.personalized.gate.to_v": jnp.array(words),
    }
    found = variant.losses(forward(both))["gates"]
    np.testing.assert_allclose(found, (of_fine + of_words) / 2, **close)
    assert Meteora(words=()).losses(forward(both)) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep=0 .* 1 to number=3"),
        ({"number": 2}, "words=.*number=2"),
        ({"supervision": -1.0}, "supervision=-1.0"),
    ],
)
def test_gates_without_a_choice_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Meteora(**options)
