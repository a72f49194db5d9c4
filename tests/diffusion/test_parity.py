"""Every sampler's whole trajectory against diffusers', over its spacings, predictions and options.

Where diffusers is wrong the expectation is DDIM's Eq. 12 in float64 over the plan's own levels,
which tests/diffusion/test_levels.py pins down: of first-order samplers it is the formula.
"""

import numpy as np
import pytest

from moa_jax.diffusion import NoiseSchedule, make_sampler
from tests.diffusion.trajectories import (
    ANY_COUNT,
    CLEAN,
    NOISE,
    SD15,
    ZERO_SNR,
    assert_close,
    follow,
    reference,
    run_theirs,
    scheduler,
)

VARIANTS = [(name, False) for name in ANY_COUNT] + [
    (name, True) for name in ("euler", "dpm++2m", "unipc")
]
STEPS = (1, 2, 3, 10, 25, 50, 100)
TOLERANCE = 1e-5  # diffusers rounds its sigmas to float32
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own


def diffusers_is_wrong(name, config, steps):
    """Whether its result is not what its own timesteps and the papers say."""
    spacing = config.get("timestep_spacing", "leading")
    if name == "ddim" and spacing != "leading":
        # It subtracts a fixed stride from the timestep: under linspace that is never the next one,
        # under trailing only if the stride is whole (its issues 11347, 12633).
        return spacing == "linspace" or 1000 % steps > 0
    # A single linspace step is asked at timestep 0, as if there were no noise.
    one = steps == 1 and spacing == "linspace" and name in ("ddpm", "euler", "euler_a")
    # Its ancestral Euler has no sample prediction.
    return one or (name == "euler_a" and config.get("prediction_type") == "sample")


def assert_agrees(name, config, steps, karras=False, eta=None, skip=0):
    schedule = NoiseSchedule.from_config(config)
    plan = make_sampler(name, schedule, steps, karras=karras, eta=eta, skip=skip)
    start = plan.init_noise_sigma * NOISE
    if skip:
        start = plan.signals[0] * CLEAN + np.sqrt(1.0 - plan.signals[0] ** 2) * NOISE
    found = follow(plan, start)[-1]
    if diffusers_is_wrong(name, config, steps):
        share = (eta or 0.0) if name == "ddim" else float(name in ("ddpm", "euler_a"))
        expected = reference(schedule, plan.timesteps, plan.signals, start, share)
        assert_close(found, expected, 1e-9)
        return
    theirs = scheduler(name, schedule, config, steps, karras)
    expected = run_theirs(name, theirs, CLEAN if skip else None, skip, eta or 0.0)
    assert_close(found, expected, TOLERANCE)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("name", "karras"), VARIANTS)
def test_trajectories_agree(name, karras, prediction_type, spacing):
    config = {**SD15, "prediction_type": prediction_type, "timestep_spacing": spacing}
    for steps in STEPS if prediction_type != "sample" else STEPS[:4]:
        assert_agrees(name, config, steps, karras)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize(("name", "karras"), VARIANTS)
def test_trajectories_from_zero_snr_agree(name, karras, spacing):
    for steps in STEPS[:4]:
        assert_agrees(name, {**ZERO_SNR, "timestep_spacing": spacing}, steps, karras)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_ddims_noise_agrees(spacing, eta):
    for prediction_type in ("epsilon", "v_prediction"):
        config = {**SD15, "prediction_type": prediction_type, "timestep_spacing": spacing}
        for steps in STEPS[:4]:
            assert_agrees("ddim", config, steps, eta=eta)


@pytest.mark.parametrize(
    "change",
    [
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
        {"set_alpha_to_one": True},
        {"steps_offset": 0},
        {"steps_offset": 3},
        {"num_train_timesteps": 400},
    ],
    ids=lambda change: ",".join(f"{key}={value}" for key, value in change.items()),
)
@pytest.mark.parametrize(("name", "karras"), VARIANTS)
def test_other_schedules_agree(name, karras, change):
    config = {**SD15, "timestep_spacing": "leading", **change}
    if karras and name == "dpm++2m" and "squaredcos_cap_v2" in change.values():
        return  # it cuts these timesteps off where it should round them: test_levels.py
    for steps in (2, 20):
        assert_agrees(name, config, steps, karras)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "karras"), VARIANTS)
def test_an_image_to_image_start_agrees(name, karras, prediction_type):
    config = {**SD15, "prediction_type": prediction_type}
    if name in ("ddim", "ddpm"):
        config["timestep_spacing"] = "leading"
    for steps, skip in ((10, 1), (10, 6), (10, 9), (2, 1)):
        assert_agrees(name, config, steps, karras, skip=skip)
