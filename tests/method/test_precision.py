"""What is promised in float32 is so on a TPU too, whose products are bfloat16's unless asked."""

import re

import jax
import jax.numpy as jnp
import pytest

from moa_jax.method.losses import mean_routing, object_loss, union_mask
from moa_jax.method.prompt import fourier_features
from moa_jax.method.router import LinearRouter, MLPRouter

MASKS = jax.ShapeDtypeStruct((2, 3, 8, 6), jnp.float32)


def products(function, *shapes):
    """The precision that each product of a program asks for, of its two factors."""
    text = jax.jit(function).lower(*shapes).as_text()
    return [
        re.search(r"precision = \[(\w+, \w+)\]", line)[1]
        for line in text.splitlines()
        if "dot_general" in line
    ]


@pytest.mark.parametrize(("router", "layers"), [(LinearRouter, 1), (MLPRouter, 2)])
def test_routers_multiply_in_float32_forward_and_backward(router, layers):
    module = router(experts=2)
    hidden = jax.ShapeDtypeStruct((1, 2, 3, 8), jnp.bfloat16)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(hidden.shape), None))

    def share(params, hidden):
        return jnp.sum(module.apply(params, hidden, None)[..., 1])

    found = products(jax.grad(share, (0, 1)), params, hidden)
    assert found == ["HIGHEST, HIGHEST"] * 3 * layers


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (lambda masks: union_mask(masks, (4, 3)), [MASKS]),
        (lambda maps: mean_routing([maps], (8, 6)), [jax.ShapeDtypeStruct((2, 4, 3), jnp.float32)]),
        (
            lambda weights, masks: object_loss([weights], masks, jnp.ones((2, 3), bool)),
            [jax.ShapeDtypeStruct((2, 2, 4, 3, 3), jnp.float32), MASKS],
        ),
    ],
    ids=["union_mask", "mean_routing", "object_loss"],
)
def test_masks_and_maps_are_resized_in_float32(loss, shapes):
    found = products(loss, *shapes)
    assert found and set(found) == {"HIGHEST, HIGHEST"}


def test_phases_of_time_and_layer_are_no_matrix_products():
    """They reach hundreds of radians, of which bfloat16 would keep nothing."""
    times = jax.ShapeDtypeStruct((2,), jnp.int32)
    assert not products(lambda times: fourier_features(times, 3, (0.03, 2.0), 8), times)
