"""Inversion leads back to where DDIM came from: how close, where the steps end, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import NoiseSchedule, ddim, ddim_inversion, ends_of_steps, sample
from moa_jax.errors import InputError
from tests.diffusion.trajectories import CLEAN, KEY, SD15, ZERO_SNR, follow, network


def damped(latents, timestep, row):
    return 0.5 * network(latents, timestep)


def there_and_back(schedule, steps, iterations, denoise=damped):
    noise = follow(ddim_inversion(schedule, steps, iterations), CLEAN, denoise)[-1]
    back = follow(ddim(schedule, steps), noise, denoise)[-1]
    return np.abs(back - CLEAN).max()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_the_way_back_ends_at_the_start(spacing, end, prediction_type):
    config = {**SD15, "prediction_type": prediction_type, "timestep_spacing": spacing}
    schedule = NoiseSchedule.from_config({**config, "set_alpha_to_one": end})
    assert there_and_back(schedule, 20, 40) < 1e-4


def test_each_iteration_divides_the_error():
    schedule = NoiseSchedule.from_config(SD15)
    errors = np.array([there_and_back(schedule, 25, iterations) for iterations in range(1, 9)])
    ratios = errors[:-1] / errors[1:]
    assert (ratios > 2.0).all(), (errors, ratios)
    assert errors[-1] < 1e-4
    # Shorter steps converge faster.
    assert there_and_back(schedule, 100, 4) < 0.1 * there_and_back(schedule, 25, 4)


def test_zero_snr_is_inverted():
    schedule = NoiseSchedule.from_config({**ZERO_SNR, "timestep_spacing": "trailing"})
    assert there_and_back(schedule, 20, 40) < 1e-4


def test_rows_that_end_steps_lie_on_ddims_trajectory():
    schedule = NoiseSchedule.from_config(SD15)
    forwards, plan = ddim(schedule, 6), ddim_inversion(schedule, 6, 60)
    rows = ends_of_steps(plan)
    np.testing.assert_array_equal(rows, np.arange(59, 360, 60))
    np.testing.assert_array_equal(plan.timesteps[rows], forwards.timesteps[::-1])
    np.testing.assert_allclose(plan.signals[1:][rows], forwards.signals[-2::-1])
    assert plan.signals[0] == forwards.signals[-1]
    backwards = follow(plan, CLEAN, damped)
    visited = follow(forwards, backwards[-1], damped)
    for row, latents in zip(rows, visited[-2::-1], strict=True):
        np.testing.assert_allclose(backwards[row + 1], latents, atol=1e-6)


def test_the_loop_follows_the_plan_and_counts_the_steps_backwards():
    plan, asked = ddim_inversion(NoiseSchedule.from_config(SD15), 5, 3), []

    def denoise(latents, timesteps, step):
        asked.append(step)
        return jnp.sin(latents), ()

    found, _ = sample(denoise, plan, jnp.asarray(CLEAN, jnp.float32), KEY)
    expected = follow(plan, CLEAN, lambda latents, timestep, row: np.sin(latents))[-1]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert asked == [4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]


def test_steps_that_are_left_out_are_left_out_of_the_way_back():
    schedule = NoiseSchedule.from_config(SD15)
    whole, part = ddim_inversion(schedule, 6, 2), ddim_inversion(schedule, 6, 2, skip=4)
    np.testing.assert_array_equal(part.timesteps, whole.timesteps[:4])
    np.testing.assert_array_equal(part.signals, whole.signals[:5])
    np.testing.assert_array_equal(part.steps, [1, 1, 0, 0])
    for name, table in part.coefficients.items():
        np.testing.assert_array_equal(table, whole.coefficients[name][:4])
    forwards = ddim(schedule, 6, skip=4)
    np.testing.assert_array_equal(part.timesteps[::2], forwards.timesteps[::-1])


def test_no_iterations_are_refused():
    with pytest.raises(InputError, match="iterations=0.*once or more"):
        ddim_inversion(NoiseSchedule.from_config(SD15), 10, 0)


def test_predictions_of_the_picture_are_refused():
    config = {**SD15, "prediction_type": "sample"}
    with pytest.raises(InputError, match=r"'sample' cannot be inverted.*v_prediction"):
        ddim_inversion(NoiseSchedule.from_config(config), 10)


def test_a_step_that_forgets_its_start_is_refused():
    config = {**ZERO_SNR, "timestep_spacing": "trailing", "set_alpha_to_one": True}
    with pytest.raises(InputError, match="num_inference_steps=1: .*no way back"):
        ddim_inversion(NoiseSchedule.from_config(config), 1)
