"""A training step: what it changes, what it leaves alone, and that splitting it shows nowhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.config import MeshConfig
from moa_jax.method.model import build
from moa_jax.method.trained import combine, leaf_paths
from moa_jax.training.mesh import make_mesh
from moa_jax.training.objective import loss_weights, make_objective, summarize
from moa_jax.training.optimizer import make_optimizer
from moa_jax.training.step import initial_state, make_train_step, stream, update_ema
from tests.training.tiny import (
    gradient_of,
    gradient_run,
    leaves,
    random_batch,
    relative_error,
)


@pytest.fixture(scope="module")
def three_steps(adamw):
    """(first state, last state, frozen before, frozen after, metrics of each step)."""
    state, frozen = adamw.start()
    first, frozen_before = jax.device_get((state, frozen))
    metrics = []
    for seed in range(3):
        state, numbers = adamw.step(state, frozen, random_batch(seed))
        metrics.append(jax.device_get(numbers))
    return first, jax.device_get(state), frozen_before, jax.device_get(frozen), metrics


def test_what_learns_moves_and_the_rest_is_the_same_to_the_bit(tiny, three_steps):
    first, last, frozen_before, frozen_after, _ = three_steps
    before = leaf_paths(combine(first.trained, frozen_before))
    after = leaf_paths(combine(last.trained, frozen_after))
    loaded = leaf_paths(jax.device_get(tiny.params))
    for path, learns in leaf_paths(tiny.mask).items():
        moved = not np.array_equal(before[path], after[path])
        assert moved == learns, path
        assert learns or np.array_equal(loaded[path], after[path]), path


def test_the_optimizer_holds_two_moments_of_what_learns_and_no_more(tiny, three_steps):
    moments = [leaf for leaf in leaves(three_steps[0].optimizer) if leaf.ndim]
    learning = [leaf for leaf in leaves(three_steps[0].trained) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * sum(leaf.size for leaf in learning)
    paths = " ".join(leaf_paths(three_steps[0].optimizer))
    assert "vae" not in paths and "text_encoder" not in paths


def test_metrics_are_the_terms_and_their_weighted_sum(config, three_steps):
    for numbers in three_steps[4]:
        total = numbers["loss/denoising"]
        total = total + config.method.router_loss_weight * numbers["loss/router"]
        total = total + config.method.object_loss_weight * numbers["loss/object"]
        np.testing.assert_allclose(numbers["loss/total"], total, rtol=1e-5)
        assert numbers["grad_norm"] > 0 and numbers["update_norm"] > 0


def test_a_router_that_learns_nothing_adds_nothing_to_the_loss(config):
    assert loss_weights(config.method)["router"] == config.method.router_loss_weight > 0
    single = dataclasses.replace(config.method, router="personalized")
    assert loss_weights(single) == {**loss_weights(config.method), "router": 0.0}


def test_routing_starts_at_the_configured_weight(config, three_steps):
    start = config.method.initial_personalized_weight
    first = three_steps[4][0]
    np.testing.assert_allclose(first["routing/subject"], start, rtol=1e-4)
    np.testing.assert_allclose(first["routing/background"], start, rtol=1e-4)
    prior = {key: value for key, value in first.items() if key.startswith("routing/prior/")}
    assert any(key.endswith("attn1") for key in prior) and any("attn2" in key for key in prior)
    np.testing.assert_allclose(list(prior.values()), 1 - start, rtol=1e-4)
    # Only pixels outside the masks are pulled to the prior, and the first loss says how far.
    assert 0 < first["loss/router"] < start**2


def test_ema_starts_at_the_weights_and_follows_with_warm_up(config, three_steps):
    first, last = three_steps[:2]
    assert relative_error(first.ema, first.trained) == 0
    drift = relative_error(last.trained, first.trained)
    assert 0 < relative_error(last.ema, last.trained) < drift
    assert relative_error(last.ema, first.trained) > 0


def test_ema_is_the_recursion_written_out():
    average, expected, decay = {"w": jnp.zeros(1)}, 0.0, 0.5
    for step in range(20):
        average = update_ema(average, {"w": jnp.full(1, 1.0 * step)}, decay, jnp.int32(step))
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * step
    np.testing.assert_allclose(average["w"], [expected], rtol=1e-6)


def test_every_use_of_a_seed_has_a_stream_of_its_own(config):
    names = ("init", "steps", "probe", "preview")
    keys = [jax.random.key(7), *(stream(7, name) for name in names), stream(8, "steps")]
    # Those drawn for pictures of a batch count too: one use's key must not be another's split.
    data = [jax.random.key_data(part) for key in keys for part in (key, *jax.random.split(key, 8))]
    assert len({tuple(each.tolist()) for each in data}) == 9 * len(keys)
    # Written down, for a run that is resumed by a later version must go on with the same draws.
    steps = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=7))
    state, _ = initial_state({"w": jnp.ones(())}, {"w": True}, optax.sgd(1.0), steps)
    np.testing.assert_array_equal(state.key, [2452286983, 4014129249])
    np.testing.assert_array_equal(jax.random.key_data(stream(7, "steps")), state.key)


def test_the_same_key_and_step_draw_the_same(adamw, three_steps):
    state, frozen = adamw.start()
    _, numbers = adamw.step(state, frozen, random_batch(0))
    for name, value in three_steps[4][0].items():
        assert value == numbers[name], name


def test_a_gradient_that_is_not_finite_is_not_applied(adamw):
    state, frozen = adamw.start()
    state, _ = adamw.step(state, frozen, random_batch(0))
    good = jax.device_get(state)
    poison = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), frozen["text_encoder"])
    after, numbers = adamw.step(state, {**frozen, "text_encoder": poison}, random_batch(1))
    assert np.isnan(numbers["loss/denoising"])
    require_the_same_but_for_the_step(after, good)


def require_the_same_but_for_the_step(after, before):
    assert int(after.step) == int(before.step) + 1
    for part in ("trained", "optimizer", "ema", "key"):
        pairs = list(zip(leaves(getattr(after, part)), leaves(getattr(before, part)), strict=True))
        assert pairs, part
        for kept, old in pairs:
            np.testing.assert_array_equal(kept, old, err_msg=part)


@pytest.mark.parametrize("bad", ["loss", "slope"])
def test_either_of_loss_and_gradient_keeps_an_update_from_being_applied(config, bad):
    def objective(trained, frozen, batch, keys):
        return jnp.mean(batch["slope"]) * trained["w"], {"loss/total": jnp.mean(batch["loss"])}

    optimizer = make_optimizer(config.optimizer, config.train.steps, {"w": True})
    state, frozen = initial_state({"w": jnp.ones(())}, {"w": True}, optimizer, config)
    step = jax.jit(make_train_step(objective, config, optimizer))
    good = {"loss": jnp.ones(2), "slope": jnp.ones(2)}
    before, _ = step(state, frozen, good)
    after, _ = step(before, frozen, {**good, bad: jnp.array([1.0, jnp.inf])})
    require_the_same_but_for_the_step(after, before)
    moved, _ = step(before, frozen, good)
    assert moved.ema["w"] != before.ema["w"] and moved.trained["w"] != before.trained["w"]


def test_in_bfloat16_what_learns_and_its_optimizer_stay_float32(tiny, config):
    base = load_stable_diffusion(str(tiny.base.path), dtype=jnp.bfloat16)
    model, params = build(base, config.method, dtype=jnp.bfloat16, key=jax.random.key(0))
    optimizer = make_optimizer(config.optimizer, config.train.steps, tiny.mask)
    state, frozen = initial_state(params, tiny.mask, optimizer, config)
    objective = make_objective(model, tiny.schedule, config.method)
    step = make_train_step(objective, config, optimizer, summarize)
    after, numbers = jax.eval_shape(step, state, frozen, random_batch(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype(jnp.bfloat16)}
    for part in (after.trained, after.ema, numbers):
        assert {leaf.dtype for leaf in jax.tree.leaves(part)} == {jnp.dtype(jnp.float32)}
    like = jax.eval_shape(lambda: state)
    assert jax.tree.leaves(after) == jax.tree.leaves(like)  # shapes and dtypes: nothing drifts


@pytest.mark.slow  # test_small_step.py has them on one number
def test_micro_batches_give_the_gradient_of_the_whole_batch(tiny, config, one_device, gradient):
    split = gradient_run(tiny, config, one_device, accumulation=4)
    whole, numbers = gradient_of(gradient, random_batch(0))
    parts, numbers_of_parts = gradient_of(split, random_batch(0))
    assert relative_error(parts, whole) < 1e-5
    for name, value in numbers.items():
        np.testing.assert_allclose(numbers_of_parts[name], value, rtol=2e-5, err_msg=name)


@pytest.mark.slow
def test_all_axes_at_once_give_the_gradient_of_one_device(tiny, config, gradient):
    sharded = gradient_run(tiny, config, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    one, numbers = gradient_of(gradient, random_batch(0))
    eight, numbers_of_eight = gradient_of(sharded, random_batch(0))
    assert relative_error(eight, one) < 1e-5
    for name, value in numbers.items():
        np.testing.assert_allclose(numbers_of_eight[name], value, rtol=2e-5, err_msg=name)


@pytest.mark.slow
def test_frozen_parameters_cost_no_gradient_work(tiny, config, one_device, gradient):
    everything = jax.tree.map(lambda _: True, tiny.mask)
    full = gradient_run(tiny, config, one_device, mask=everything)
    flops = []
    for run in (gradient, full):
        flops.append(run.step.lower(*run.start(), random_batch(0)).cost_analysis()["flops"])
    assert flops[0] < 0.9 * flops[1]


def test_the_gradient_is_the_slope_of_the_loss(gradient):
    """Central differences of the compiled step's own loss, along its own gradient."""
    slope, _ = gradient_of(gradient, random_batch(0))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in leaves(slope)))

    def loss_at(distance):
        state, frozen = gradient.start()
        moved = jax.tree.map(lambda w, g: w + distance / norm * g, state.trained, slope)
        _, numbers = gradient.step(state.replace(trained=moved), frozen, random_batch(0))
        return float(numbers["loss/total"])

    np.testing.assert_allclose((loss_at(0.02) - loss_at(-0.02)) / 0.04, norm, rtol=1e-2)


def test_every_part_that_learns_has_a_gradient(gradient):
    slope, _ = gradient_of(gradient, random_batch(0))
    idle = [path for path, leaf in leaf_paths(slope).items() if not np.abs(leaf).max() > 0]
    assert idle == []


def test_pictures_in_the_place_of_an_absent_subject_change_nothing(gradient):
    batch = random_batch(0)
    absent = ~batch["subject_present"]
    others = {**batch, "subject_images": batch["subject_images"].copy()}
    others["subject_images"][absent] = 255 - others["subject_images"][absent]
    _, numbers = gradient_of(gradient, batch)
    _, same = gradient_of(gradient, others)
    assert numbers["loss/total"] == same["loss/total"]
    others["subject_images"][~absent] = 255 - others["subject_images"][~absent]
    _, changed = gradient_of(gradient, others)
    assert numbers["loss/denoising"] != changed["loss/denoising"]
