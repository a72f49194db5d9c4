"""DDIM's steps lead to the timestep that comes next, which diffusers' do not always; refusals.

Its trajectories against diffusers' are in tests/diffusion/test_parity.py.
"""

import numpy as np
import pytest

from moa_jax.diffusion import NoiseSchedule, ddim
from moa_jax.errors import InputError
from tests.diffusion.trajectories import (
    NOISE,
    SD15,
    assert_close,
    follow,
    reference,
    run_theirs,
    scheduler,
)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_every_timestep_agrees_with_diffusers(spacing):
    # Where the stride is 1 diffusers takes the right steps under both spacings.
    config = {**SD15, "timestep_spacing": spacing}
    schedule = NoiseSchedule.from_config(config)
    theirs = scheduler("ddim", schedule, config, 1000)
    assert_close(follow(ddim(schedule, 1000), NOISE)[-1], run_theirs("ddim", theirs), 1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("spacing", "timesteps"),
    [
        ("linspace", [999]),
        ("linspace", [999, 0]),
        ("linspace", [999, 799, 599, 400, 200, 0]),
        ("trailing", [999, 856, 713, 570, 428, 285, 142]),
        ("leading", [853, 711, 569, 427, 285, 143, 1]),
        ("leading", list(range(999, -1, -1))),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
def test_each_step_leads_to_the_timestep_that_comes_next(spacing, timesteps, prediction_type, eta):
    # The timesteps are written out, so that the plan is checked as well as the steps along it.
    config = {**SD15, "timestep_spacing": spacing, "prediction_type": prediction_type}
    schedule = NoiseSchedule.from_config(config)
    plan = ddim(schedule, len(timesteps), eta)
    np.testing.assert_array_equal(plan.timesteps, timesteps)
    alphas = [*schedule.alphas_cumprod[timesteps], schedule.final_alpha_cumprod]
    expected = reference(schedule, timesteps, np.sqrt(alphas), NOISE, eta)
    assert_close(follow(plan, NOISE)[-1], expected, 1e-9)


def test_epsilon_at_zero_snr_is_refused_only_where_it_would_be_asked():
    config = {**SD15, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(InputError, match=r"epsilon.*zero signal.*v_prediction"):
        ddim(NoiseSchedule.from_config(config), 10)
    ddim(NoiseSchedule.from_config({**config, "timestep_spacing": "leading"}), 10)
    ddim(NoiseSchedule.from_config(config), 10, skip=1)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_outside_0_to_1_is_refused(eta):
    with pytest.raises(InputError, match=f"eta={eta}"):
        ddim(NoiseSchedule.from_config(SD15), 10, eta)
