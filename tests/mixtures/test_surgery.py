"""Adapters of tasks that come one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.config import Config, MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.variant import Forward, Moment, Observations, name_of
from moa_jax.method.weights import MoaCard, save_moa
from moa_jax.mixtures.surgery import Mos
from tests.mixtures.one_layer import (
    HIDDEN,
    PROJECTIONS,
    attend,
    keys,
    layer_of,
    move,
    normal,
    prompt,
    run,
    start,
)

THREE = Mos(tasks=3, earlier="runs/two", rank=2, scale=0.5, merge=0.25)
HERE = ("mid", "attn2")


def test_a_picture_is_drawn_by_the_adapter_of_its_task():
    said, layer = prompt(), layer_of(THREE, block=3)
    params = move(start(layer, said))
    words = np.asarray(said.for_experts(3, ("personalized",))[1])
    for given, tasks in ((None, (2, 2)), ({"task": jnp.array([1, 0])}, (1, 0))):
        mixed, seen = run(layer, params, said._replace(shared=given))
        weights = seen["routing"][0]
        prior = attend(params, said.text)
        for picture, task in enumerate(tasks):
            merged = {name: dict(params[name]) for name in PROJECTIONS}
            for name in PROJECTIONS:
                own = params["personalized"]
                down, up = (own[f"task{task + 1}.{name}.{side}"]["kernel"] for side in SIDES)
                merged[name]["kernel"] = params[name]["kernel"] + 0.5 * down @ up
            expected = weights[..., :1] * prior + weights[..., 1:] * attend(merged, words)
            np.testing.assert_allclose(mixed[picture], expected[picture], atol=3e-5)


SIDES = ("down", "up")


@pytest.mark.slow
def test_the_last_layer_compares_with_each_task_and_its_mean_follows():
    said, layer = prompt(), layer_of(THREE, block=6)  # the last of seven
    params = move(start(layer, said))
    _, seen = run(layer, params, said)
    features = HIDDEN.mean(axis=(1, 2))
    means = np.stack([params[f"means.task{number}"] for number in (1, 2, 3)])
    expected = ((features[:, None] - means) ** 2).mean(-1)
    np.testing.assert_allclose(seen["distances"][0], expected, rtol=1e-5)

    none = jnp.zeros(2)
    extra = {"up.attn2.distances": jnp.array(expected), "up.attn2.other": none}
    terms = THREE.losses(Forward(none, none, none, Observations({}, {}, extra), {}, none))
    np.testing.assert_allclose(terms["means"], expected[:, 2].mean(), rtol=1e-6)

    def total(params, hidden):
        _, state = layer.apply({"params": params}, hidden, said, mutable=["intermediates"])
        return jnp.sum(state["intermediates"]["distances"][0])

    slope, passed = jax.grad(total, argnums=(0, 1))(params, jnp.array(HIDDEN))
    assert np.abs(slope["means.task3"]).min() > 0 and not np.any(passed)


def drawn(table, refine=3):
    """Draw with made-up features: `table` has, for each picture, the nearest task by the task."""
    table = jnp.array(table)

    def passes(context):
        task = context.shared["task"]
        nearest = jnp.take_along_axis(table, task[:, None], axis=1)[:, 0]
        extra = {"up.attn2.distances": 1.0 - jax.nn.one_hot(nearest, 3)}
        return task, Observations({}, {}, extra)

    variant = Mos(tasks=3, earlier="a", refine=refine)
    return np.asarray(variant.predict(passes, prompt())[0]).tolist()


def test_drawing_settles_on_the_task_that_the_features_are_of():
    # From the last task, 2, over 0 to 1, where it stays; and a picture that is the last one's.
    assert drawn([[1, 1, 0], [0, 0, 2]]) == [1, 2]
    # One that never settles ends after so many further passes; the other does not notice.
    cycle = [[1, 0, 0], [0, 1, 1]]
    assert [drawn(cycle, refine)[0] for refine in range(5)] == [2, 0, 1, 0, 1]
    assert [drawn(cycle, refine)[1] for refine in range(5)] == [2, 1, 1, 1, 1]

    seen, contexts = Observations({}, {}, {}), []

    def once(context):
        contexts.append(context)
        return jnp.zeros(2), seen

    training = prompt(keys=keys(1, 2))
    assert THREE.predict(once, training)[1] is seen and contexts == [training]


def test_a_step_pulls_the_adapter_towards_the_earlier_ones():
    names = [(*HERE, "personalized", f"task{number}.to_q.down", "kernel") for number in (1, 2, 3)]
    other = (*HERE, "router", "logits", "kernel")
    flat = {path: jnp.array(normal(seed, 4, 2)) for seed, path in enumerate([*names, other])}
    moment = Moment(jnp.zeros(2), None, keys(0, 1))

    def loss(flat, moment=moment):
        used = THREE.weights({"unet": unflatten_dict(flat)}, moment)["unet"]
        used = flatten_dict(used)
        return sum(jnp.sum(3.0 * used[path]) for path in [*names, other]), used

    slope, used = jax.jit(jax.grad(loss, has_aux=True))(flat)
    for path, leaf in flat.items():
        np.testing.assert_array_equal(used[path], leaf)
    mean = (flat[names[0]] + flat[names[1]]) / 2
    np.testing.assert_allclose(slope[names[2]], 3 + 0.25 * (flat[names[2]] - mean), rtol=1e-6)
    for path in (names[0], names[1], other):
        np.testing.assert_array_equal(slope[path], np.full((4, 2), 3.0))
    tree = {"unet": unflatten_dict(flat)}
    assert THREE.weights(tree, Moment(jnp.zeros(2))) is tree  # when drawing


def test_a_run_takes_over_what_the_earlier_tasks_learnt(tmp_path):
    first = Mos(rank=2)
    layer = layer_of(first, block=6)
    learnt = flatten_dict(move(start(layer, prompt())))
    own = {path: leaf for path, leaf in learnt.items() if path[0] not in PROJECTIONS}
    tree = unflatten_dict({("unet", *HERE, *path): leaf for path, leaf in own.items()})
    card = MoaCard(Config(method=MethodConfig(mixture=name_of(first))), Identity("", "", {}), 1)
    save_moa(tmp_path, tree, card)

    second = Mos(tasks=2, earlier=str(tmp_path), rank=2)
    shapes = flatten_dict(jax.eval_shape(lambda: start(layer_of(second, block=6), prompt())))
    added = {(*HERE, *path): leaf for path, leaf in shapes.items() if path[0] not in PROJECTIONS}
    found = second.start(added, {})
    assert len(found) == 9  # two factors of four projections, and a mean
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, own[path[2:]])
    fixed = {path for path in added if not second.learns(".".join(("unet", *path)))}
    assert fixed == found.keys()
    assert len(added) - len(found) == 9 + len([path for path in own if path[0] == "router"])
    with pytest.raises(InputError, match=r"name a run of .*Mos, rank=2, scale=1.0, tasks=2"):
        Mos(tasks=3, earlier=str(tmp_path), rank=2).start(added, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 0}, "tasks=0"),
        ({"tasks": 2}, "earlier='' must be the run of the tasks before tasks=2"),
        ({"earlier": "a"}, "earlier='a'"),
        ({"merge": -1.0}, "merge=-1.0"),
        ({"refine": -1}, "refine=-1"),
    ],
)
def test_tasks_without_their_adapters_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Mos(**options)
