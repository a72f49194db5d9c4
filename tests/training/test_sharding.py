"""Each preset's step on eight devices: what it sends, and that its result is one device's."""

import dataclasses
import re
from collections import Counter

import jax
import numpy as np
import optax
import pytest

from moa_jax.config import MeshConfig
from moa_jax.method.trained import leaf_paths
from moa_jax.planning.collectives import Collective, collectives
from moa_jax.planning.hlo import parse
from moa_jax.training.mesh import make_mesh, place_batch, weight_shardings
from tests.training.tiny import make_run, random_batch, relative_error

STEPS = 2
ATTENTION = re.compile(r"to_[qkv]|to_out|[qkv]_proj|out_proj")


@pytest.fixture(scope="module")
def accumulating(config):
    """Every picture on its own device at once, in two micro-batches, with EMA."""
    optimizer = dataclasses.replace(config.optimizer, accumulation=2)
    return dataclasses.replace(config, optimizer=optimizer)


def compiled(tiny, config, mesh):
    """(the step, compiled in a hurry: it runs a few times; state; frozen)."""
    # Momentum, not Adam: Adam's update is a sign where a gradient is nearly nought.
    run = make_run(tiny, config, mesh, optax.sgd(0.1, momentum=0.9))
    state, frozen = run.start()
    lowered = run.step.lower(state, frozen, place_batch(mesh, batch(0)))
    hurry = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return lowered.compile(compiler_options=hurry), state, frozen


def batch(seed):
    return random_batch(seed, size=16)


def train(step, state, frozen, mesh):
    """(state after STEPS, the numbers of each step)."""
    numbers = []
    for seed in range(STEPS):
        state, metrics = step(state, frozen, place_batch(mesh, batch(seed)))
        numbers.append(jax.device_get(metrics))
    return jax.device_get(state), numbers


@pytest.fixture(scope="module")
def reference(tiny, accumulating, one_device):
    step, state, frozen = compiled(tiny, accumulating, one_device)
    start = jax.device_get(state)
    return start, *train(step, state, frozen, one_device)


@pytest.fixture(  # test_step.py has a data axis at every run
    scope="module",
    params=[*(pytest.param(each, marks=pytest.mark.slow) for each in ("dp", "fsdp+tp")), "fsdp"],
)
def preset(request, tiny, accumulating):
    mesh = make_mesh(MeshConfig(preset=request.param))
    return request.param, mesh, *compiled(tiny, accumulating, mesh)


@pytest.mark.slow
def test_a_preset_sends_what_it_must_and_no_more(preset):
    name, mesh, step, state, frozen = preset
    sent = collectives(parse(step.as_text()))
    reduced = [one for one in sent if one.kind == "all-reduce"]
    gathered = [one for one in sent if one.kind == "all-gather"]
    assert len(reduced) + len(gathered) == len(sent), Counter(one.kind for one in sent)

    # Sorted, for the compiler may transpose.
    sums = Counter(tuple(sorted(shape)) for one in reduced for shape in shapes(one) if shape)
    trained = Counter(tuple(sorted(leaf.shape)) for leaf in jax.tree.leaves(state.trained))
    if name != "fsdp+tp":  # each gradient once, nothing of the batch; scalars aside
        assert sums == trained
    else:  # sums over heads besides
        strange = [one for one in reduced if not ATTENTION.search(one.name) and over_rows(one)]
        assert not strange

    split = [
        path
        for path, place in leaf_paths(weight_shardings((state.trained, frozen), mesh)).items()
        if "fsdp" in place.spec and "vae.decoder" not in path and "post_quant" not in path
    ]
    weights = [one for one in gathered if one.name.endswith("sharding_constraint")]
    assert len(weights) == (0 if name == "dp" else len(split))
    others = [one for one in gathered if one not in weights]
    assert not [one for one in others if name != "fsdp+tp" or max_rank(one) > 1]


def over_rows(one: Collective) -> bool:
    return max_rank(one) > 2


def max_rank(one: Collective) -> int:
    return max(map(len, shapes(one)))


def shapes(one: Collective) -> list[tuple[int, ...]]:
    return [array.shape for array in one.arrays]


def test_a_preset_gives_the_losses_and_the_update_of_one_device(preset, reference):
    _, mesh, step, state, frozen = preset
    start, expected, expected_numbers = reference
    after, numbers = train(step, state, frozen, mesh)
    for one, other in zip(numbers, expected_numbers, strict=True):
        for key, value in other.items():
            # L_object is a small difference of two means; the total has it too.
            np.testing.assert_allclose(one[key], value, rtol=1e-5, atol=1e-8, err_msg=key)
    for tree in ("trained", "ema"):
        assert relative_error(getattr(after, tree), getattr(expected, tree)) < 1e-5
    moved, should = (
        jax.tree.map(np.subtract, end.trained, start.trained) for end in (after, expected)
    )
    assert relative_error(moved, should) < 1e-5
    assert relative_error(after.optimizer, expected.optimizer) < 1e-5
    assert int(after.step) == STEPS
