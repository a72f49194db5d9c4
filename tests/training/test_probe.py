"""The probe tells whether the subject's picture matters: not at the prior, and where it does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.method.mixture import MixtureOfAttention
from moa_jax.method.router import FixedRouter
from moa_jax.training.optimizer import make_optimizer
from moa_jax.training.probe import make_probe, swap, swap_effect
from moa_jax.training.step import initial_state
from tests.training.tiny import random_batch


def test_swap_effect_is_a_root_mean_square_over_each_region():
    own = jnp.zeros((1, 2, 2, 3))
    other = own.at[0, 0, 0].set(2.0).at[0, 1, 1].set(1.0)
    mask = jnp.zeros((1, 2, 2)).at[0, 0, 0].set(1.0)
    effect = swap_effect(own, other, own, mask)
    assert effect["swap/subject"] == pytest.approx(2.0)
    assert effect["swap/background"] == pytest.approx(np.sqrt(1.0 / 3))
    assert swap_effect(own, other, own, jnp.zeros_like(mask))["swap/subject"] == 0


def test_swap_loss_tells_whether_the_right_subject_helps():
    right, wrong = jnp.zeros((1, 2, 2, 3)), jnp.full((1, 2, 2, 3), 3.0)
    mask = jnp.zeros((1, 2, 2)).at[0, 0].set(1.0)
    assert swap_effect(right, wrong, right, mask)["swap/loss"] == pytest.approx(9.0)
    assert swap_effect(wrong, right, right, mask)["swap/loss"] == pytest.approx(-9.0)
    assert swap_effect(wrong, wrong, right, mask)["swap/loss"] == 0


def test_only_subjects_that_are_present_are_swapped():
    """Three pictures of up to two subjects; 20 stands for the first subject of the third."""
    features = jnp.array([[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]])[..., None]
    present = jnp.array([[True, False], [False, False], [True, True]])
    swapped, count = swap(features, present)
    # The next one in turn: 0, 20, then the second subjects, 21, and again 0.
    np.testing.assert_array_equal(swapped[..., 0], [[20, 1], [10, 11], [21, 0]])
    assert count == 3


@pytest.mark.parametrize("place", [None, (1, 0)])
def test_fewer_than_two_subjects_are_not_swapped_and_the_count_says_so(place):
    features = jax.random.normal(jax.random.key(0), (3, 2, 4))
    present = jnp.zeros((3, 2), bool)
    swapped, count = swap(features, present if place is None else present.at[place].set(True))
    np.testing.assert_array_equal(swapped, features)
    assert count == 0


@pytest.fixture(scope="module")
def parts(tiny, config):
    """(state, frozen parameters) of the start."""
    optimizer = make_optimizer(config.optimizer, config.train.steps, tiny.mask)
    return initial_state(tiny.params, tiny.mask, optimizer, config)


def make_held(tiny, config, weights):
    """Compile the probe with every router held at `weights` (prior, personalized)."""
    router = partial(FixedRouter, weights=weights)
    unet = tiny.model.unet.clone(attention=partial(MixtureOfAttention, router=router))
    model = type(tiny.model)(**{**vars(tiny.model), "unet": unet})
    return jax.jit(make_probe(model, tiny.schedule, seed=0))


def test_the_prior_sees_no_subject(tiny, config, parts):
    numbers = make_held(tiny, config, (1.0, 0.0))(*parts, random_batch(0))
    # Eight pictures of random_batch have none, one or two subjects in turn.
    assert numbers.pop("swap/count") == 7
    assert set(numbers) == {"swap/subject", "swap/background", "swap/loss"}
    assert {float(value) for value in numbers.values()} == {0.0}


@pytest.mark.slow
def test_the_personalized_expert_sees_other_subjects_and_nothing_of_absent_ones(
    tiny, config, parts
):
    probe, batch = make_held(tiny, config, (0.0, 1.0)), random_batch(0)
    assert probe(*parts, batch)["swap/subject"] > 1e-3
    alone = np.zeros_like(batch["subject_present"])
    alone[1, 0] = True
    tokens = np.where(alone, batch["subject_tokens"], 77).astype(np.int32)
    numbers = probe(*parts, {**batch, "subject_present": alone, "subject_tokens": tokens})
    assert {float(value) for value in numbers.values()} == {0.0}
