"""Small modules beside the prior's frozen attention: what each sees, and what it can change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.method.sparse import Sparse
from moa_jax.method.variant import resolve
from moa_jax.mixtures.adapters import AttentionGate, Film, Frequency, PromptBesideText, low_pass
from tests.mixtures.one_layer import (
    HIDDEN,
    NOBODY,
    PROJECTIONS,
    attend,
    dense,
    keys,
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


def replaced(said):
    """The text with the subjects in it."""
    return np.asarray(said.for_experts(0, ("personalized",))[1])


def personalized(layer, params, said):
    """The personalized expert's own output: what the mixture has beside the prior's share."""
    mixed, seen = run(layer, params, said)
    weights = seen["routing"][0]
    cross = layer.cross
    return (mixed - weights[..., :1] * attend(params, said.text, cross=cross)) / weights[..., 1:]


def test_film_experts_are_one_attention_modulated():
    layer, said = layer_of(Film(number=3)), prompt()
    params = move(start(layer, said))
    mixed, seen = run(layer, params, said)
    weights = seen["routing"][0]
    own = [params[name] for name in ("personalized", "expert2", "expert3")]
    shared, expected = attend(params, replaced(said)), weights[..., :1] * attend(params, said.text)
    scale, shift = (
        np.einsum(
            "bhwe,ed->bhwd", weights[..., 1:], np.stack([each[f"to_out.0.{part}"] for each in own])
        )
        for part in ("scale", "shift")
    )
    expected += (1 - weights[..., :1] + scale) * shared + shift
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_every_projection_may_be_modulated():
    layer, said = layer_of(Film(number=1, modulated=PROJECTIONS)), prompt()
    params = move(start(layer, said))
    own = params["personalized"]

    def modulated(source, name):
        return (1 + own[f"{name}.scale"]) * dense(params[name], source) + own[f"{name}.shift"]

    prompts = replaced(said)
    sources = (("to_q", QUERIES), ("to_k", prompts), ("to_v", prompts))
    values = mix_values(*(modulated(source, name) for name, source in sources))
    expected = modulated(values, "to_out.0").reshape(HIDDEN.shape)
    np.testing.assert_allclose(personalized(layer, params, said), expected, atol=1e-4)


def test_the_uncertain_router_looks_again_only_in_training():
    params = move(start(layer_of(Film()), prompt()), 1.0)

    def routing(variant, *numbers):
        said = prompt(keys=keys(*numbers) if numbers else None)
        return run(layer_of(variant), params, said)[1]["routing"][0]

    drawn, training = routing(Film()), routing(Film(), 0, 1)
    np.testing.assert_allclose(drawn, softmax(dense(params["router"]["logits"], HIDDEN)), atol=1e-6)
    assert np.abs(training - drawn).max() > 0.01
    np.testing.assert_array_equal(routing(Film(dropout=0.0), 0, 1), drawn)
    np.testing.assert_allclose(training.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(routing(Film(), 5, 1)[1], training[1])
    # The mean of many looks hardly depends on the key.
    few, many = (
        np.abs(routing(Film(passes=n), 0, 1) - routing(Film(passes=n), 2, 3)).max()
        for n in (1, 200)
    )
    assert many < few / 3


def test_low_frequencies_are_those_of_few_periods():
    rows, columns = 2 * np.pi * np.mgrid[:8, :8] / 8
    kept = [np.ones((8, 8)), np.cos(rows + 0.3), np.sin(rows + columns)]
    dropped = [
        np.cos(2 * columns),
        np.cos(4 * rows) * np.cos(4 * columns),
    ]  # the last: a chessboard
    maps = np.stack(kept + dropped).astype(np.float32)[..., None]
    expected = np.stack(kept + [np.zeros((8, 8))] * 2)[..., None]
    np.testing.assert_allclose(low_pass(jnp.array(maps), 0.3), expected, atol=1e-6)
    noise = normal(0, 1, 8, 6, 3)
    low, turned = (
        np.asarray(low_pass(jnp.array(each), 0.5))
        for each in (noise, np.roll(noise, (3, 1), (1, 2)))
    )
    np.testing.assert_allclose(turned, np.roll(low, (3, 1), (1, 2)), atol=1e-6)
    np.testing.assert_allclose(low_pass(jnp.array(noise), 1.4), noise, atol=1e-6)


def test_each_adapter_sees_its_frequencies():
    layer, said = layer_of(Frequency(), cross=False), prompt()
    params = move(start(layer, said))
    flat = np.broadcast_to(HIDDEN[:, :1, :1], HIDDEN.shape)
    board = flat * ((-1.0) ** np.mgrid[:4, :4].sum(0))[None, ..., None].astype(np.float32)

    def loss(params, hidden):
        return jnp.square(layer.apply({"params": params}, hidden, said)).sum()

    slopes = jax.jit(jax.grad(loss))
    for hidden, silent in ((flat, 2), (board, 1)):
        own = slopes(params, hidden)["personalized"]
        sizes = [np.abs(own[f"{name}.down"]["kernel"]).max() for name in ("all", "low", "high")]
        assert [size > 1e-3 for size in sizes] == [number != silent for number in range(3)]


def test_the_adapters_are_weighed_scaled_and_added_to_the_priors_attention():
    layer, said = layer_of(Frequency(cutoff=0.5)), prompt()
    params = move(start(layer, said))
    own, low = params["personalized"], np.asarray(low_pass(jnp.array(HIDDEN), 0.5))
    weights = softmax(dense(own["router"], HIDDEN))
    expected = attend(params, replaced(said))
    for number, (name, part) in enumerate((("all", HIDDEN), ("low", low), ("high", HIDDEN - low))):
        inner = np.maximum(dense(own[f"{name}.down"], part), 0)
        made = dense(own[f"{name}.up"], inner)
        expected = expected + own["scale"] * weights[..., number, None] * made
    np.testing.assert_allclose(personalized(layer, params, said), expected, atol=1e-4)


def test_frequencies_are_not_computed_for_some_of_the_pixels():
    layer, said = layer_of(Frequency(), cross=False), prompt()
    params = start(layer, said)
    with pytest.raises(InputError, match="FrequencyExpert cannot attend"):
        run(layer, params, said._replace(sparse=Sparse(0.0, 0.5)))


def test_a_gate_lets_a_subjects_values_in():
    layer, plain = layer_of(AttentionGate()), prompt()
    said = PromptBesideText(*plain)._replace(subjects=jnp.abs(plain.subjects))
    said = said._replace(text=jnp.abs(plain.text))  # so that gates of great weight are 1 or -1
    params = move(start(layer, said))
    own = params["personalized"]
    own["adapter.up"]["kernel"] = np.zeros_like(own["adapter.up"]["kernel"])
    text, subjects = np.split(replaced(said), 2, axis=-1)
    np.testing.assert_array_equal(text, said.text)
    query, key = dense(params["to_q"], QUERIES), dense(params["to_k"], subjects)
    old, new = (dense(params["to_v"], source) for source in (text, subjects))
    for gates in ((0, 0), (1, -1)):
        own["gate"]["kernel"] = np.full((12, 2), 99.0, np.float32) * np.float32(gates)
        value = old + np.repeat(gates, 8) * (new - old)
        expected = dense(params["to_out.0"], mix_values(query, key, value)).reshape(HIDDEN.shape)
        np.testing.assert_allclose(personalized(layer, params, said), expected, atol=1e-4)
    alone = said._replace(tokens=NOBODY)  # whatever the gates, they have nothing to let in
    expected = attend(params, said.text)
    np.testing.assert_allclose(personalized(layer, params, alone), expected, atol=1e-4)


def test_the_adapter_on_the_output_is_gated():
    layer, said = layer_of(AttentionGate(), cross=False), PromptBesideText(*prompt())
    params = move(start(layer, said))
    own, prior = params["personalized"], attend(params, said.text, cross=False)
    gate = dense(own["adapter.gate"], prior)
    inner = gate / (1 + np.exp(-gate)) * dense(own["adapter.down"], prior)
    expected = prior + dense(own["adapter.up"], inner)
    np.testing.assert_allclose(personalized(layer, params, said), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("Film(number=0)", "number=0 must be a whole number above 0"),
        ("Film(passes=0)", "passes=0 must be a whole number above 0"),
        ("Film(dropout=1.0)", r"dropout=1.0 must be in \[0, 1\)"),
        ("Film(modulated=('to_o',))", "must be a tuple of one or more of to_q"),
        ("Frequency(rank=0)", "rank=0 must be a whole number above 0"),
        ("Frequency(cutoff=1.5)", r"cutoff=1.5 must be in \[0, 1\]"),
        ("AttentionGate(rank=0)", "rank=0 must be a whole number above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=f"method.mixture: .*{message}"):
        resolve(f"moa_jax.mixtures.adapters:{options}")
