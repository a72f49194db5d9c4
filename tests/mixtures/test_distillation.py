"""A student that takes one step towards its teachers before it predicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.errors import InputError
from moa_jax.method.variant import Observations
from moa_jax.mixtures.distillation import Aggregator, MetaDmoe
from tests.mixtures.one_layer import (
    PROJECTIONS,
    attend,
    dense,
    layer_of,
    move,
    normal,
    prompt,
    run,
    softmax,
    start,
)

TEACHERS, STUDENT = (
    normal(1, 2, 3, 3, 2, 4),
    normal(2, 14, 2, 2, 3, 3, 4),
)  # B h w n C; gains' slope


@pytest.fixture(scope="module")
def aggregator():
    made = Aggregator().init(jax.random.key(0), jnp.array(TEACHERS))["params"]
    return jax.tree.map(jnp.asarray, move(made))


def said(context):
    """A made-up U-Net: fixed teachers, and a student that is linear in its gains."""
    shared = context.shared
    if "teacher" in shared:
        return jnp.array(TEACHERS)[..., shared["teacher"], :], Observations({}, {}, {})
    linear = jnp.einsum("blr,lrbhwc->bhwc", shared["gains"], jnp.array(STUDENT))
    return linear, Observations({"student": linear}, {}, {})


def predicted(aggregator, rate):
    context = prompt(shared={"aggregator": aggregator})
    return MetaDmoe(number=2, rank=2, rate=rate).predict(said, context)


def distance(prediction, target):
    return np.square(prediction - target).mean(axis=(1, 2, 3))


def test_the_student_takes_one_step_towards_the_teachers(aggregator):
    target = np.asarray(Aggregator().apply({"params": aggregator}, jnp.array(TEACHERS)))
    before = STUDENT.sum(axis=(0, 1))
    slope = 2 * np.einsum("bhwc,lrbhwc->blr", before - target, STUDENT) / 36  # of 3x3x4 numbers
    expected = np.einsum("blr,lrbhwc->bhwc", 1 - 0.01 * slope, STUDENT)
    prediction, seen = predicted(aggregator, 0.01)
    np.testing.assert_allclose(prediction, expected, atol=1e-4)
    np.testing.assert_array_equal(seen.routing["student"], prediction)  # of the last pass
    assert np.all(distance(prediction, target) < 0.98 * distance(before, target))
    np.testing.assert_allclose(predicted(aggregator, 0.0)[0], before, atol=1e-5)


@pytest.mark.slow
def test_the_aggregator_learns_through_the_step(aggregator):
    wanted = jnp.array(normal(5, 2, 3, 3, 4))

    def loss(aggregator):
        return jnp.mean(jnp.square(predicted(aggregator, 0.01)[0] - wanted))

    slope = flatten_dict(jax.grad(loss)(aggregator))
    flat = flatten_dict(aggregator)
    for path in (("out", "kernel"), ("tokens", "kernel"), ("attention", "query", "kernel")):
        way = jnp.array(normal(7, *flat[path].shape))
        ahead, behind = (
            float(loss(unflatten_dict({**flat, path: flat[path] + sign * 0.02 * way})))
            for sign in (1, -1)
        )
        expected = (ahead - behind) / 0.04
        np.testing.assert_allclose(jnp.sum(slope[path] * way), expected, rtol=0.03, atol=1e-4)


def test_the_aggregator_is_a_transformer_layer_over_the_teachers(aggregator):
    own = jax.tree.map(np.asarray, aggregator)

    def normalised(tokens, norm):
        centred = tokens - tokens.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * norm["scale"] + norm["bias"]

    tokens = dense(own["tokens"], TEACHERS)
    read = normalised(tokens, own["norm1"])
    query, key, value = (
        np.einsum("bhwnd,dge->bhwnge", read, own["attention"][name]["kernel"])
        + own["attention"][name]["bias"]
        for name in ("query", "key", "value")
    )
    weights = softmax(np.einsum("bhwnge,bhwmge->bhwgnm", query, key) / np.sqrt(8))
    heard = np.einsum("bhwgnm,bhwmge->bhwnge", weights, value)
    out = own["attention"]["out"]
    tokens = tokens + np.einsum("bhwnge,ged->bhwnd", heard, out["kernel"]) + out["bias"]
    inner = dense(own["fc1"], normalised(tokens, own["norm2"]))
    tokens = tokens + dense(own["fc2"], np.asarray(jax.nn.gelu(inner, approximate=False)))
    expected = (TEACHERS + dense(own["out"], tokens)).mean(axis=-2)
    found = Aggregator().apply({"params": aggregator}, jnp.array(TEACHERS))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("cross", [False, True])
def test_a_pass_is_a_teachers_or_the_students(cross):
    layer = layer_of(MetaDmoe(number=2, rank=3, scale=0.5), cross, block=3)
    context = prompt()
    params = move(start(layer, context))
    words = np.asarray(context.for_experts(3, ("personalized",))[1])
    own, gains = params["personalized"], normal(8, 2, 14, 3)

    def check(shared, change_of):
        mixed, seen = run(layer, params, context._replace(shared=shared))
        weights = seen["routing"][0]
        prior = attend(params, context.text, cross=cross)
        for picture in range(2):
            merged = {name: dict(params[name]) for name in PROJECTIONS}
            for name in PROJECTIONS:
                merged[name]["kernel"] = params[name]["kernel"] + 0.5 * change_of(name, picture)
            expert = attend(merged, words, cross=cross)
            expected = weights[..., :1] * prior + weights[..., 1:] * expert
            np.testing.assert_allclose(mixed[picture], expected[picture], atol=3e-5)

    def of_teacher(name, picture):
        return own[f"{name}.down"]["kernel"][:, 3:] @ own[f"{name}.up"]["kernel"][3:]

    def of_student(name, picture):
        down, up = (own[f"student.{name}.{side}"]["kernel"] for side in ("down", "up"))
        return down * gains[picture, 6 + cross] @ up

    check({"teacher": jnp.array(1)}, of_teacher)
    check({"gains": jnp.array(gains)}, of_student)
    variant = MetaDmoe(number=2, rank=3)
    paths = [".".join(("unet.mid.attn2", *path)) for path in flatten_dict(params)]
    fixed = [path for path in paths if not variant.learns(path)]
    assert len(fixed) == 8 and not any("student" in path for path in fixed)


def test_a_step_away_from_the_teachers_is_refused():
    with pytest.raises(InputError, match=r"rate=-0\.1"):
        MetaDmoe(rate=-0.1)
