"""The training step on one number, where every result can be written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moa_jax.config import Config, OptimizerConfig, TrainConfig
from moa_jax.training.step import initial_state, make_train_step

ROWS = np.array([0.5, 1.0, 2.0, 2.5], np.float32)  # their mean is 1.5
DECAY = 0.15


def squared(trained, frozen, batch, keys):
    loss = jnp.mean(jnp.square(trained["w"] - batch["x"])) / 2
    return loss, {"loss/total": loss}


def noisy(trained, frozen, batch, keys):
    noise = jax.vmap(jax.random.normal)(keys)
    loss = jnp.mean(batch["x"] * noise) + trained["w"]
    return loss, {"loss/total": loss}


def small(objective, accumulation=1, seed=0, decay=DECAY):
    """(step, the state to start from)."""
    optimizer = OptimizerConfig(ema_decay=decay, accumulation=accumulation)
    config = Config(optimizer=optimizer, train=TrainConfig(seed=seed))
    momentum = optax.sgd(0.1, momentum=0.5)
    state, _ = initial_state({"w": jnp.array(4.0)}, {"w": True}, momentum, config)
    step = jax.jit(make_train_step(objective, config, momentum))
    return lambda state, rows=ROWS: step(state, {}, {"x": rows}), state


@pytest.mark.parametrize("accumulation", [1, 2])
def test_updates_and_their_average_are_those_on_paper(accumulation):
    step, state = small(squared, accumulation)
    weight = average = 4.0
    velocity = 0.0
    for done in range(3):
        state, numbers = step(state)
        # The mean of (w - x)^2 is (w - 1.5)^2 + 0.625, the spread of ROWS.
        np.testing.assert_allclose(numbers["loss/total"], ((weight - 1.5) ** 2 + 0.625) / 2, 1e-6)
        np.testing.assert_allclose(numbers["grad_norm"], abs(weight - 1.5), 1e-6)
        velocity = 0.5 * velocity + weight - 1.5
        weight -= 0.1 * velocity
        keep = min(DECAY, (1 + done) / (10 + done))
        average = keep * average + (1 - keep) * weight
        np.testing.assert_allclose(numbers["update_norm"], 0.1 * abs(velocity), 1e-5)
        np.testing.assert_allclose(state.trained["w"], weight, 1e-6)
        np.testing.assert_allclose(state.ema["w"], average, 1e-6)
        assert int(state.step) == done + 1


def test_every_step_every_row_and_every_seed_has_its_own_noise():
    step, state = small(noisy)
    rows = np.eye(4, dtype=np.float32)
    drawn = [float(step(state, row)[1]["loss/total"]) for row in rows]
    drawn += [float(step(state.replace(step=jnp.int32(1)), rows[0])[1]["loss/total"])]
    drawn += [float(step(small(noisy, seed=1)[1], rows[0])[1]["loss/total"])]
    assert len({round(value, 5) for value in drawn}) == 6


def test_a_row_keeps_its_noise_in_micro_batches():
    whole, parts = (step(state)[1]["loss/total"] for step, state in (small(noisy), small(noisy, 2)))
    np.testing.assert_allclose(whole, parts, rtol=1e-6)


def test_pictures_are_drawn_with_the_average_if_there_is_one():
    for decay in (DECAY, None):
        step, state = small(squared, decay=decay)
        state, _ = step(state)
        assert state.averaged is (state.trained if decay is None else state.ema)
