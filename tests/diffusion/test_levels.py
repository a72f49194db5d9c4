"""Timesteps, noise levels and starts against diffusers for every step count; finite everywhere."""

import numpy as np
import pytest

from moa_jax.diffusion import NoiseSchedule, make_sampler
from tests.diffusion.trajectories import ANY_COUNT, DIFFUSERS, SD15, ZERO_SNR, scheduler

SPACINGS = ["leading", "linspace", "trailing"]
KARRAS = ("euler", "dpm++2m", "unipc")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ANY_COUNT)
def test_timesteps_agree_for_every_count(name, spacing):
    config = {**SD15, "timestep_spacing": spacing}
    schedule = NoiseSchedule.from_config(config)
    theirs, differ = scheduler(name, schedule, config, 10), []
    for steps in range(1, 1001):
        theirs.set_timesteps(steps)
        found, expected = make_sampler(name, schedule, steps).timesteps, theirs.timesteps.numpy()
        if spacing == "trailing":
            expected = expected[:steps]  # its range ends with a timestep -1 too many for 62 counts
        if not np.allclose(found, expected, rtol=0.0, atol=1e-3):
            differ.append(steps)
    solver = name in ("dpm++2m", "unipc")
    if spacing == "leading":
        # Its offset leads past the last timestep (its issue 10003); its solvers' stride is 0.
        assert differ == ([999, 1000] if solver else [1000])
    elif spacing == "linspace":
        # One step at timestep 0; a timestep twice, and NaN from it.
        assert differ == ([1000] if solver else [1])
    else:
        assert differ == []


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", KARRAS)
def test_karras_timesteps_agree(name, spacing):
    for change in ({}, {"beta_schedule": "squaredcos_cap_v2"}):
        config = {**SD15, "timestep_spacing": spacing, **change}
        schedule = NoiseSchedule.from_config(config)
        for steps in (2, 7, 30, 100):
            found = make_sampler(name, schedule, steps, karras=True).timesteps
            expected = scheduler(name, schedule, config, steps, karras=True).timesteps.numpy()
            # Under squaredcos_cap_v2 its DPM-Solver forgets to round and cuts off (issue 12771).
            slack = 1.0 if change and name == "dpm++2m" else 2e-3
            np.testing.assert_allclose(found, expected, rtol=0.0, atol=slack)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ANY_COUNT)
def test_sampling_starts_with_their_noise(name, spacing):
    config = {**SD15, "timestep_spacing": spacing}
    schedule = NoiseSchedule.from_config(config)
    for steps in (2, 30):
        theirs, plan = scheduler(name, schedule, config, steps), make_sampler(name, schedule, steps)
        expected = float(theirs.init_noise_sigma)
        if name.startswith("euler"):  # into the network's own latents
            expected /= np.hypot(1.0, float(theirs.sigmas[0]))
            assert (plan.init_noise_sigma < 1.0) == (spacing != "leading")
        assert plan.init_noise_sigma == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ANY_COUNT)
def test_each_sampler_has_its_own_spacing_where_the_file_has_none(name):
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule.from_config(SD15)
    assert schedule.spacing is None
    theirs = getattr(diffusers, DIFFUSERS[name]).from_config(SD15)
    theirs.set_timesteps(7)
    found = make_sampler(name, schedule, 7).timesteps
    np.testing.assert_allclose(found, theirs.timesteps.numpy(), atol=1e-3)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ANY_COUNT)
def test_every_coefficient_is_finite(name, prediction_type, zero_snr):
    for spacing in SPACINGS:
        config = {**(ZERO_SNR if zero_snr else SD15), "prediction_type": prediction_type}
        config["timestep_spacing"] = spacing
        if zero_snr and prediction_type == "epsilon" and spacing != "leading":
            continue  # refused: tests/diffusion/test_samplers.py
        schedule = NoiseSchedule.from_config(config)
        for steps in (1, 2, 3, 4, 50, 999, 998 if zero_snr else 1000):
            for karras in (False, True) if name in KARRAS else (False,):
                if zero_snr and prediction_type == "epsilon" and (karras or steps > 900):
                    continue  # these begin at the last timestep
                assert_finite(make_sampler(name, schedule, steps, karras=karras), steps)
                assert_finite(
                    make_sampler(name, schedule, steps, skip=steps // 2), steps - steps // 2
                )


def assert_finite(plan, steps):
    assert len(plan.timesteps) == steps == len(plan.signals) - 1
    assert (np.diff(plan.signals) > 0.0).all() or plan.timesteps[-1] == 0
    for table in (plan.signals, *plan.coefficients.values()):
        assert table.dtype == np.float64 and np.isfinite(table).all()
        assert np.isfinite(table.astype(np.float32)).all()
    assert {len(table) for table in plan.coefficients.values()} == {steps}
