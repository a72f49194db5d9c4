"""Each sampler's declared order on Gaussian data, where the exact answer is known.

For data N(mean, deviation^2) the probability-flow ODE keeps a point's distance from the mean in
standard deviations, and the ancestral process ends in that distribution.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import NoiseSchedule, make_sampler, sample
from tests.diffusion.trajectories import KEY, NOISE, SD15, follow

MEAN, DEVIATION = 1.5, 0.4
HIGHER = ("dpm++2m", "unipc")


def moments(signal):
    return signal * MEAN, np.hypot(signal * DEVIATION, np.sqrt(1.0 - signal**2))


def gaussian(schedule, plan):
    """The perfect network of that distribution, at a plan's own noise levels."""

    def denoise(latents, timestep, row):
        signal = plan.signals[row]
        centre, spread = moments(signal)
        noise = np.sqrt(1.0 - signal**2) * (latents - centre) / spread**2
        clean = (latents - np.sqrt(1.0 - signal**2) * noise) / signal
        velocity = signal * noise - np.sqrt(1.0 - signal**2) * clean
        predictions = {"epsilon": noise, "v_prediction": velocity, "sample": clean}
        return predictions[schedule.prediction_type]

    return denoise


def error_halfway(name, steps, prediction_type):
    """Distance from the exact solution at timestep 480 of 0 to 960, before the last step."""
    config = {**SD15, "num_train_timesteps": 961, "prediction_type": prediction_type}
    schedule = NoiseSchedule.from_config({**config, "timestep_spacing": "linspace"})
    plan = make_sampler(name, schedule, steps + (name in ("ddim", "euler")))
    centre, spread = moments(plan.signals[0])
    latents = follow(plan, centre + spread * NOISE, gaussian(schedule, plan))
    (row,) = np.flatnonzero(plan.timesteps == 480)
    centre, spread = moments(plan.signals[row])
    return np.abs(latents[row] - centre - spread * NOISE).max()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("ddim", 0.9, 1.1), ("euler", 0.9, 1.1), ("dpm++2m", 1.9, 2.3), ("unipc", 2.5, 3.5)],
)
def test_the_declared_order_shows(name, least, most, prediction_type):
    # The corrector lifts UniPC-2 to third order (UniPC, Sec. 3.2).
    errors = [error_halfway(name, steps, prediction_type) for steps in (48, 96, 192)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert least < orders[-1] < most, (errors, orders)


def test_higher_orders_need_fewer_steps():
    first, second, third = (error_halfway(name, 12, "epsilon") for name in ("ddim", *HIGHER))
    assert third < 0.5 * second < 0.25 * first, (first, second, third)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "euler_a", "ddim"])
def test_ancestral_samplers_draw_the_gaussian(name):
    schedule = NoiseSchedule.from_config({**SD15, "timestep_spacing": "leading"})
    plan = make_sampler(name, schedule, 1000, eta=1.0 if name == "ddim" else None)
    start = jax.random.normal(jax.random.key(1), (64, 16, 16, 4))
    end = np.asarray(draw(plan, schedule.alphas_cumprod, start))
    # 65,536 draws have standard errors 0.0016 and 0.0011; the rest is the steps' own, about 6 / n.
    assert end.mean() == pytest.approx(MEAN, abs=0.01)
    assert end.std() == pytest.approx(DEVIATION, abs=0.01)
    # The start is forgotten: this is noise put back, not the first noise carried along.
    assert abs(np.corrcoef(end.ravel(), np.ravel(start))[0, 1]) < 0.15


def draw(plan, alphas, start):
    def denoise(latents, timesteps, step):
        return gaussian_noise(latents, np.float32(alphas[int(timesteps[0])])), ()

    return sample(denoise, plan, start, KEY)[0]


@jax.jit
def gaussian_noise(latents, alpha):
    spread = alpha * DEVIATION**2 + 1.0 - alpha
    return jnp.sqrt(1.0 - alpha) * (latents - jnp.sqrt(alpha) * MEAN) / spread
