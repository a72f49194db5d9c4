"""PNDM against diffusers' PNDMScheduler, and against its formulas where that goes astray."""

import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import NoiseSchedule, make_sampler, sampler_of
from moa_jax.errors import InputError
from tests.diffusion.trajectories import (
    CLEAN,
    NOISE,
    SD15,
    ZERO_SNR,
    assert_close,
    follow,
    network,
    run_theirs,
    scheduler,
)

RELEASED = {**SD15, "skip_prk_steps": True}  # Stable Diffusion 1.5's own file
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "change", [{}, {"set_alpha_to_one": True}, {"steps_offset": 0}, {"num_train_timesteps": 400}]
)
def test_trajectories_agree(prediction_type, change):
    config = {**RELEASED, "prediction_type": prediction_type, **change}
    schedule = NoiseSchedule.from_config(config)
    for steps in (1, 2, 3, 4, 5, 6, 25, 50):
        plan, theirs = (
            make_sampler("pndm", schedule, steps),
            scheduler("pndm", schedule, config, steps),
        )
        np.testing.assert_array_equal(plan.timesteps, theirs.timesteps.numpy())
        assert_close(follow(plan, NOISE)[-1], run_theirs("pndm", theirs), 1e-9)


def reference(schedule, timesteps, signals, latents):
    """Each step by hand: the latents after it, from the predictions so far."""
    past, steps = [], len(timesteps)

    def along(latents, prediction, step):
        now, following = signals[step], signals[step + 1]
        deviation = np.sqrt(1 - now**2)
        if schedule.prediction_type == "epsilon":
            clean, noise = (latents - deviation * prediction) / now, prediction
        elif schedule.prediction_type == "sample":
            clean, noise = prediction, (latents - now * prediction) / deviation
        else:
            clean = now * latents - deviation * prediction
            noise = deviation * latents + now * prediction
        return following * clean + np.sqrt(1 - following**2) * noise

    for step in range(steps):
        new = network(latents, timesteps[step])
        past = [new, *past[:3]]
        if step == 0 and steps > 1:
            guess = along(latents, new, 0)
            new = (new + network(guess, timesteps[1])) / 2
        elif step > 0:
            weights = {
                2: [3 / 2, -1 / 2],
                3: [23 / 12, -4 / 3, 5 / 12],
                4: [55 / 24, -59 / 24, 37 / 24, -3 / 8],
            }[len(past)]
            new = sum(weight * each for weight, each in zip(weights, past, strict=True))
        latents = along(latents, new, step)
    return latents


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_spacing_and_a_start_from_a_photo_follow_the_formulas(prediction_type, spacing):
    config = {**RELEASED, "prediction_type": prediction_type, "timestep_spacing": spacing}
    check_formulas(config, ((6, 0), (7, 3), (7, 6)))


def test_zero_snr_follows_the_formulas():
    check_formulas({**ZERO_SNR, "timestep_spacing": "trailing"}, ((6, 0),))


def check_formulas(config, counts):
    schedule = NoiseSchedule.from_config(config)
    for steps, skip in counts:
        levels = make_sampler("ddim", schedule, steps, skip=skip)  # it stands at the same levels
        plan = make_sampler("pndm", schedule, steps, skip=skip)
        assert len(plan.timesteps) == steps - skip + (steps - skip > 1)
        start = plan.signals[0] * CLEAN + np.sqrt(1.0 - plan.signals[0] ** 2) * NOISE
        expected = reference(schedule, levels.timesteps, levels.signals, start)
        assert_close(follow(plan, start)[-1], expected, 1e-9)


def test_each_row_belongs_to_a_step_and_has_its_level():
    schedule = NoiseSchedule.from_config(RELEASED)
    plan, levels = (make_sampler(name, schedule, 5) for name in ("pndm", "ddim"))
    assert plan.steps.tolist() == [0, 0, 1, 2, 3, 4]
    assert plan.last_rows.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(plan.signals[plan.last_rows + 1], levels.signals[1:])
    np.testing.assert_array_equal(plan.signals[:2], levels.signals[:2])
    assert levels.last_rows.tolist() == [0, 1, 2, 3, 4]


def test_what_a_mask_keeps_has_the_level_after_each_step():
    """A step of two rows needs one level, which both rows get."""
    from moa_jax.sampling.photo import Photo
    from moa_jax.sampling.start import start_from_photo

    schedule = NoiseSchedule.from_config(RELEASED)
    photo = Photo(np.zeros((16, 16, 3), np.uint8), np.ones((16, 16), np.float32))
    clean, noise = jnp.zeros((1, 2, 2, 4)), jnp.ones((1, 2, 2, 4))
    for name in ("pndm", "ddim"):
        plan = make_sampler(name, schedule, 5)
        known = start_from_photo(clean, photo, plan, noise, 0).known
        levels = [float(each.max()) for each in known.latents]
        expected = np.sqrt(1.0 - make_sampler("ddim", schedule, 5).signals[1:-1] ** 2)
        np.testing.assert_allclose(levels, [*expected, 0.0], rtol=1e-5)


def test_runge_kutta_steps_are_refused():
    with pytest.raises(InputError, match="PNDMScheduler with skip_prk_steps=False"):
        sampler_of({"_class_name": "PNDMScheduler", "skip_prk_steps": False})
