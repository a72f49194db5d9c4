"""Layers of experts spread over eight devices: what they compute, and what they send."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import stats

from moa_jax.errors import InputError
from moa_jax.mixtures.parallel import Comet, ExpertParallel, Hecate, aggregate, prune, spread
from moa_jax.planning.collectives import KINDS
from moa_jax.planning.hlo import parse
from moa_jax.planning.topology import topology_devices
from tests.mixtures.parallel_layers import (
    DEVICES,
    EXPERTS,
    TOKENS,
    WIDTH,
    dense,
    differentiable,
    feed_forward,
    layer,
    mesh,
    routed,
    tokens,
)
from tests.mixtures.schedules import compiled_as_for_users, is_product
from tests.planning.conftest import libtpu

OWN = TOKENS // DEVICES  # tokens of a device
ENOUGH = EXPERTS / 2  # a capacity that drops none of two choices


def on_devices(made):
    """The function, and its arguments where they live."""
    split = NamedSharding(mesh(), PartitionSpec("expert"))
    whole = NamedSharding(mesh(), PartitionSpec())
    placed = jax.device_put(layer(), {"router": whole, "experts": split})
    return spread(made, mesh()), placed, jax.device_put(tokens(), split)


def sent(function, *arguments):
    """Bytes of the program's messages by kind, of those that are no counts.

    `planning.collectives` takes messages of one channel for one; here all have the same.
    """
    module = parse(jax.jit(function).lower(*arguments).compile().as_text())
    found = {}
    for operation in module.computations[module.entry].values():
        size = sum(array.content for array in operation.arrays if array.dtype == "f32")
        if operation.kind in KINDS and size:
            found.setdefault(operation.kind, []).append(size)
    return found


def energy(function):
    return lambda layer, tokens: jnp.sum(function(layer, tokens) ** 2)


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("keep", [1, 2])
def test_experts_on_eight_devices_are_the_layer_on_one(keep):
    full = math.ceil(1.0 * keep * OWN / EXPERTS)
    function, placed, given = on_devices(ExpertParallel(feed_forward, keep, capacity=1.0))
    expected, dropped = dense(layer(), tokens(), keep, lambda *_: full)
    assert 0.1 < dropped / (keep * TOKENS) < 0.9
    close(jax.jit(function)(placed, given), expected)


def test_a_layer_sends_tokens_there_and_back_and_no_weights():
    function, *arguments = on_devices(ExpertParallel(feed_forward, 2, capacity=1.0))
    buffers = EXPERTS * math.ceil(2 * OWN / EXPERTS) * WIDTH * 4
    forward = sent(function, *arguments)
    assert forward == {"all-to-all": [buffers] * 2}
    both = sent(jax.grad(energy(function), (0, 1)), *arguments)
    assert both.pop("all-to-all") == [buffers] * 4
    assert both == {"all-reduce": [WIDTH * EXPERTS * 4]}  # the router's gradient


def test_who_is_dropped_is_drawn_by_lot():
    """All tokens of a device want one expert; each must be served equally often."""
    size, draws = 16, 300
    crowd = np.ones((DEVICES * size, WIDTH), np.float32)
    made = ExpertParallel(lambda weights, tokens: tokens, capacity=8.0)  # half of them have room
    split = NamedSharding(mesh(), PartitionSpec("expert"))
    function = jax.jit(spread(made, mesh()))
    one = {"router": layer()["router"], "experts": np.zeros((EXPERTS, 1), np.float32)}
    one["experts"] = jax.device_put(one["experts"], split)

    def served(key):
        outputs = np.asarray(function(one, jax.device_put(crowd, split), key=key))
        return outputs[:, 0].reshape(DEVICES, size) != 0

    counts = sum(served(jax.random.key(seed)).astype(int) for seed in range(draws))
    assert np.all(counts.sum(1) == draws * size // 2)  # the buffer is always full
    # Drawn without replacement, so the statistic is a chi-square's with size - 1 degrees.
    spread_out = ((counts - draws / 2) ** 2).sum(1) / (draws / 4) * (size - 1) / size
    assert np.all(spread_out < stats.chi2.ppf(1 - 1e-4, size - 1))
    assert len({row.tobytes() for row in served(jax.random.key(0))}) > 1  # devices draw apart
    first = served(None)
    assert np.all(first[:, : size // 2]) and not np.any(first[:, size // 2 :])


def test_joined_layers_give_the_mean_and_an_unused_expert_may_go():
    def soft(one):
        return differentiable(one, tokens(), one["router"].shape[1])

    one, other = layer(), layer() | {"experts": jax.tree.map(np.negative, layer()["experts"])}
    other["experts"]["net.2"]["bias"] += 1.0
    close(soft(aggregate(one, other)), (soft(one) + soft(other)) / 2)

    choice, _ = routed(tokens() @ one["router"], 2)
    used = np.bincount(choice.reshape(-1), minlength=EXPERTS)
    idle = np.sum(used == 0)
    assert 0 < idle < EXPERTS - 2
    pruned = prune(one, jnp.asarray(used), EXPERTS - int(idle))
    close(differentiable(pruned, tokens(), 2), dense(one, tokens(), 2)[0])
    assert np.array_equal(pruned["router"], one["router"][:, used > 0])
    with pytest.raises(InputError, match="keep=17: must be 1 to 16"):
        prune(one, jnp.asarray(used), 17)


@pytest.mark.slow
def test_hot_experts_visit_and_the_others_stay():
    made = Hecate(feed_forward, 2, capacity=ENOUGH, tail=1.0)
    function, *arguments = on_devices(made)
    close(jax.jit(function)(*arguments), dense(layer(), tokens(), 2)[0])

    gradients = jax.jit(jax.grad(energy(function), (0, 1)))(*arguments)
    alone = jax.grad(energy(partial(differentiable, keep=2)), (0, 1))(layer(), tokens())
    jax.tree.map(close, gradients, alone)

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(layer()["experts"]))
    forward = sent(function, *arguments)
    assert sum(forward["all-gather"]) == weights * DEVICES // EXPERTS  # one of two experts each
    assert forward["all-to-all"] == [OWN * (EXPERTS - DEVICES) * WIDTH * 4] * 2
    both = sent(jax.grad(energy(function), (0, 1)), *arguments)
    # Each device gets its share of the sum; it is what it lent.
    assert sum(both["reduce-scatter"]) == weights // EXPERTS
    assert len(both["all-to-all"]) == 4


@pytest.mark.slow
def test_the_most_wanted_experts_of_all_devices_are_the_hot_ones():
    """Buffers of the others have no room but for one token: who is dropped tells who is hot."""
    size = math.ceil(4.0 * OWN / EXPERTS)
    function, *arguments = on_devices(Hecate(feed_forward, 1, capacity=4.0, tail=1 / size))
    choice, _ = routed(tokens() @ layer()["router"], 1)
    wanted = np.bincount(choice[:, 0], minlength=EXPERTS).reshape(DEVICES, 2)
    hot = {2 * device + int(pair[1] > pair[0]) for device, pair in enumerate(wanted)}
    expected, dropped = dense(
        layer(), tokens(), 1, lambda device, expert: size if expert in hot else 1
    )
    assert dropped > dense(layer(), tokens(), 1, lambda *_: size)[1]
    close(jax.jit(function)(*arguments), expected)
    with pytest.raises(InputError, match="hot=2: must be 1 to 1"):
        spread(Hecate(feed_forward, hot=2), mesh())(layer(), tokens())


def test_pieces_that_overlap_are_the_whole():
    function, *arguments = on_devices(Comet(feed_forward, 2, capacity=1.0))
    full = math.ceil(2 * OWN / EXPERTS)
    close(jax.jit(function)(*arguments), dense(layer(), tokens(), 2, lambda *_: full)[0])
    shifts = sent(function, *arguments)
    piece = EXPERTS // DEVICES * full * WIDTH * 4
    assert shifts == {"collective-permute": [piece] * 2 * (DEVICES - 1)}


def travels(made):
    """(shifts in a v5e program, those of them that travel while a product is computed)."""
    there = Mesh(np.asarray(topology_devices("v5e:2x4")), ("expert",))
    width, experts, number = 512, 16, 8192
    sizes = {"up": (experts, width, 2048), "down": (experts, 2048, width)}

    def shape(size, spec):
        place = NamedSharding(there, spec)
        return jax.ShapeDtypeStruct(size, jnp.bfloat16, sharding=place)

    split, whole = PartitionSpec("expert"), PartitionSpec()
    weights = {name: shape(size, split) for name, size in sizes.items()}
    arguments = {"router": shape((width, experts), whole), "experts": weights}
    lowered = jax.jit(spread(made, there)).lower(arguments, shape((number, width), split))
    module = parse(compiled_as_for_users(lowered).as_text())
    shifts, busy, open_ones = 0, set(), set()
    for operation in module.computations[module.entry].values():
        if operation.kind == "collective-permute-start":
            open_ones.add(operation.name)
            shifts += 1
        elif operation.kind == "collective-permute-done":
            open_ones -= set(operation.operands)
        elif is_product(module, operation):
            busy |= open_ones
    return shifts, len(busy)


@pytest.mark.slow
@libtpu
def test_pieces_travel_while_others_are_computed():
    def apply(weights, tokens):
        return jax.nn.gelu(tokens @ weights["up"]) @ weights["down"]

    assert travels(ExpertParallel(apply)) == (0, 0)
    shifts, busy = travels(Comet(apply))
    assert shifts == 2 * (DEVICES - 1)
    assert busy >= DEVICES - 1
