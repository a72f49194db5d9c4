"""The probe tells whether the subject's picture matters: not at the prior, and where it does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.method.mixture import FixedRouter, MixtureOfAttention
from moa_jax.training.learning import combine, make_optimizer
from moa_jax.training.probe import make_probe, swap_effect
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


def probed(tiny, config, weights):
    """Run the probe with every router held at `weights` (prior, personalized)."""
    optimizer = make_optimizer(config.optimizer, config.train.steps, tiny.mask)
    state, frozen = initial_state(tiny.params, tiny.mask, optimizer, config)
    router = partial(FixedRouter, weights=weights)
    unet = tiny.model.unet.clone(attention=partial(MixtureOfAttention, router=router))
    model = type(tiny.model)(**{**vars(tiny.model), "unet": unet})
    assert jax.tree.structure(combine(state.trained, frozen))
    numbers = jax.jit(make_probe(model, tiny.schedule))(state, frozen, random_batch(0))
    return {name: float(value) for name, value in numbers.items()}


def test_the_prior_sees_no_subject_and_the_personalized_expert_does(tiny, config):
    assert set(probed(tiny, config, (1.0, 0.0)).values()) == {0.0}
    assert probed(tiny, config, (0.0, 1.0))["swap/subject"] > 1e-3
