"""Latent consistency sampling against diffusers' LCMScheduler, and its place among the samplers."""

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
    run_theirs,
    scheduler,
)

SCHEDULE = NoiseSchedule.from_config(SD15)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("change", [{}, {"num_train_timesteps": 400}])
def test_trajectories_agree(prediction_type, change):
    config = {**SD15, "prediction_type": prediction_type, **change}
    schedule = NoiseSchedule.from_config(config)
    for steps in (1, 2, 3, 4, 8, 50):
        found = follow(make_sampler("lcm", schedule, steps), NOISE)[-1]
        theirs = scheduler("lcm", schedule, config, steps)
        assert_close(found, run_theirs("lcm", theirs), 1e-5)


def test_trajectories_from_zero_snr_agree():
    schedule = NoiseSchedule.from_config(ZERO_SNR)
    theirs = scheduler("lcm", schedule, ZERO_SNR, 4)
    assert_close(follow(make_sampler("lcm", schedule, 4), NOISE)[-1], run_theirs("lcm", theirs))


def test_an_image_to_image_start_agrees():
    for steps, skip in ((4, 1), (8, 5)):
        sampler = make_sampler("lcm", SCHEDULE, steps, skip=skip)
        start = sampler.signals[0] * CLEAN + np.sqrt(1.0 - sampler.signals[0] ** 2) * NOISE
        theirs = scheduler("lcm", SCHEDULE, SD15, steps)
        assert_close(follow(sampler, start)[-1], run_theirs("lcm", theirs, CLEAN, skip), 1e-5)


def test_timesteps_agree_for_every_count():
    theirs = scheduler("lcm", SCHEDULE, SD15, 1)
    for steps in range(1, 51):
        theirs.set_timesteps(steps)
        found = make_sampler("lcm", SCHEDULE, steps).timesteps
        np.testing.assert_array_equal(found, theirs.timesteps.numpy())


def test_more_steps_than_were_distilled_are_refused():
    with pytest.raises(InputError, match="num_inference_steps=51 must be 1 to 50 for lcm"):
        make_sampler("lcm", SCHEDULE, 51)


def test_other_distillations_are_refused():
    with pytest.raises(InputError, match="LCMScheduler with original_inference_steps=100"):
        sampler_of({"_class_name": "LCMScheduler", "original_inference_steps": 100})
