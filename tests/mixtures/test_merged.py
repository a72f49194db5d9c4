"""Experts merged by the time, against numpy and a plain attention layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.attention import Attention
from moa_jax.errors import InputError
from moa_jax.method.variant import resolve
from moa_jax.mixtures.merged import Merged
from tests.mixtures.one_layer import (
    PROJECTIONS,
    SIZES,
    attend,
    keys,
    layer_of,
    move,
    prompt,
    run,
    start,
)

VARIANT = Merged(number=2, top=3, rank=3)


@pytest.fixture(scope="module", params=[False, True], ids=["self", "cross"])
def made(request):
    layer = layer_of(VARIANT, cross=request.param)
    return layer, move(start(layer, prompt()))


def test_drawing_attends_once_with_the_merged_weights(made):
    layer, params = made
    said = prompt()
    output, seen = run(layer, params, said)
    shares = seen["routing"][0][:, 0, 0, 1:]
    assert np.abs(shares[0] - shares[1]).max() > 1e-3  # two pictures, two times
    text, whole = (np.asarray(each) for each in said.for_experts(0, ("personalized",)))
    for row, weights in enumerate(shares):
        full = {}
        for name in PROJECTIONS:
            down, up = (params[f"{name}.{part}"]["kernel"] for part in ("down", "up"))
            kernel = params[name]["kernel"].copy()
            for expert, weight in enumerate(weights):
                part = slice(3 * expert, 3 * expert + 3)
                kernel += weight * down[:, part] @ up[part]
            full[name] = {**params[name], "kernel": kernel}
        told = text + weights.sum() * (whole - text)
        expected = attend(full, jnp.array(told), cross=layer.cross)
        np.testing.assert_allclose(output[row], expected[row], atol=2e-5)


def test_training_computes_the_same_beside_the_prior(made):
    layer, params = made
    drawn, _ = run(layer, params, prompt())
    trained, _ = run(layer, params, prompt(keys=keys(0, 1)))
    np.testing.assert_allclose(trained, drawn, atol=2e-5)


def test_without_the_dial_it_is_the_prior(made):
    layer, params = made
    off, _ = run(layer, params, prompt(dial=jnp.zeros(1)))
    np.testing.assert_allclose(off, attend(params, prompt().text, cross=layer.cross), atol=1e-6)


def test_drawing_costs_what_the_prior_costs():
    said = prompt()
    names = ("text", "subjects", "tokens", "timesteps")
    one = said._replace(**{name: getattr(said, name)[:1] for name in names})
    hidden = jax.ShapeDtypeStruct((1, 32, 32, 16), jnp.float32)

    def flops(layer, context):
        params = jax.eval_shape(layer.init, jax.random.key(0), hidden, context)
        return jax.jit(layer.apply).lower(params, hidden, context).cost_analysis()["flops"]

    plain = flops(Attention(**SIZES), None)
    merged = layer_of(VARIANT, cross=False)
    assert flops(merged, one) < 1.02 * plain


@pytest.mark.parametrize("options", ["number=0", "top=4", "rank=0"])
def test_numbers_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=options):
        resolve(f"moa_jax.mixtures.merged:Merged({options})")
