"""DDIM trajectories: diffusers where it is right, else a float64 reference; exact solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import NoiseSchedule, ddim, sample
from moa_jax.diffusion.sampling import normal_like
from moa_jax.errors import InputError

SD15 = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
NOISE = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
KEY = jax.random.key(7)


def closed_form(library, latents, timestep):
    """A smooth, non-linear denoiser for numpy, jax.numpy and torch alike."""
    return 0.8 * latents + 0.3 * library.sin(2.0 * latents + 0.004 * timestep)


def ours(schedule, steps, eta=0.0):
    def denoise(latents, timesteps):
        return closed_form(jnp, latents, timesteps[:, None, None, None]), ()

    sampler = ddim(schedule, steps, eta)
    run = jax.jit(lambda x: sample(denoise, sampler, sampler.init_noise_sigma * x, KEY)[0])
    return np.asarray(run(NOISE))


def noise_of_step(index):
    keys = jax.vmap(jax.random.fold_in, (0, None))(jax.random.split(KEY, len(NOISE)), index)
    return np.asarray(normal_like(jnp.asarray(NOISE), keys))


def theirs(config, steps, eta=0.0):
    """diffusers' trajectory: its own float32 tables, everything else in float64."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    scheduler = diffusers.DDIMScheduler.from_config(config)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(steps)
    latents = torch.tensor(NOISE).double()
    for index, timestep in enumerate(scheduler.timesteps):
        fresh = torch.tensor(noise_of_step(index)) if eta else None
        output = closed_form(torch, latents, timestep)
        latents = scheduler.step(output, timestep, latents, eta, variance_noise=fresh).prev_sample
    return latents.numpy()


def reference(schedule, timesteps, eta=0.0):
    """DDIM, Eq. 12, step by step in float64 over the given timesteps."""
    latents = NOISE.astype(np.float64)
    alphas = [*schedule.alphas_cumprod[timesteps], schedule.final_alpha_cumprod]
    for index, timestep in enumerate(timesteps):
        now, following = alphas[index], alphas[index + 1]
        output = closed_form(np, latents, timestep)
        if schedule.prediction_type == "epsilon":
            clean, noise = (latents - np.sqrt(1 - now) * output) / np.sqrt(now), output
        else:
            clean = np.sqrt(now) * latents - np.sqrt(1 - now) * output
            noise = np.sqrt(1 - now) * latents + np.sqrt(now) * output
        sigma = eta * np.sqrt((1 - following) / (1 - now) * (1 - now / following))
        latents = np.sqrt(following) * clean + np.sqrt(1 - following - sigma**2) * noise
        latents += sigma * noise_of_step(index)
    return latents


def assert_close(found, expected, tolerance=1e-4):
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 999])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_stable_diffusions_schedule_agrees_with_diffusers(steps, prediction_type):
    config = {**SD15, "prediction_type": prediction_type}
    assert_close(ours(NoiseSchedule.from_config(config), steps), theirs(config, steps))


@pytest.mark.parametrize("steps", [2, 7, 50])
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noisy_steps_agree_with_diffusers(steps, eta, prediction_type):
    config = {**SD15, "prediction_type": prediction_type}
    assert_close(ours(NoiseSchedule.from_config(config), steps, eta), theirs(config, steps, eta))


@pytest.mark.parametrize(
    "change",
    [
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"set_alpha_to_one": True},
        {"steps_offset": 0},
        {"num_train_timesteps": 400},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        # diffusers takes the right steps under trailing spacing where they divide the schedule ...
        {"timestep_spacing": "trailing"},
        {
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
        },
    ],
    ids=lambda change: ",".join(f"{key}={value}" for key, value in change.items()),
)
@pytest.mark.parametrize("steps", [2, 50])
def test_other_schedules_agree_with_diffusers(steps, change):
    config = {**SD15, **change}
    assert_close(ours(NoiseSchedule.from_config(config), steps), theirs(config, steps))


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_every_timestep_agrees_with_diffusers(spacing):
    # ... and under both spacings at 1000 steps, where the stride is 1.
    config = {**SD15, "timestep_spacing": spacing}
    assert_close(ours(NoiseSchedule.from_config(config), 1000), theirs(config, 1000))


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
    assert_close(ours(schedule, len(timesteps), eta), reference(schedule, timesteps, eta))


def gaussian_error(steps):
    """Distance from the exact end of the probability-flow ODE for data ~ N(1.5, 0.4^2)."""
    mean, deviation = 1.5, 0.4
    schedule = NoiseSchedule.from_config({**SD15, "steps_offset": 0})
    alphas = jnp.asarray(schedule.alphas_cumprod, jnp.float32)

    def denoise(latents, timesteps):
        alpha = alphas[timesteps][:, None, None, None]
        centred = latents - jnp.sqrt(alpha) * mean
        return jnp.sqrt(1 - alpha) * centred / (alpha * deviation**2 + 1 - alpha), ()

    def standardize(alpha):
        return np.sqrt(alpha) * mean, np.sqrt(alpha * deviation**2 + 1 - alpha)

    sampler = ddim(schedule, steps)
    found = sample(denoise, sampler, jnp.asarray(NOISE), KEY)[0]
    start_mean, start_deviation = standardize(schedule.alphas_cumprod[sampler.timesteps[0]])
    end_mean, end_deviation = standardize(schedule.final_alpha_cumprod)
    exact = end_mean + end_deviation * (NOISE - start_mean) / start_deviation
    return np.abs(found - exact).max()


def test_first_order_on_a_gaussian():
    errors = np.array([gaussian_error(steps) for steps in (25, 50, 100, 200)])
    ratios = errors[:-1] / errors[1:]
    assert errors[-1] < 0.02 and (ratios > 1.7).all() and (ratios < 2.4).all(), (errors, ratios)


def test_ancestral_noise_keeps_the_variance_of_a_gaussian():
    # Standard normal data: x_t is standard normal at each t, and eps(x, t) = sqrt(1 - alpha) x.
    schedule = NoiseSchedule.from_config(SD15)
    sigmas = jnp.asarray(np.sqrt(1 - schedule.alphas_cumprod), jnp.float32)
    start = jax.random.normal(jax.random.key(1), (64, 16, 16, 4))
    found = sample(
        lambda x, t: (sigmas[t][:, None, None, None] * x, ()), ddim(schedule, 200, 1.0), start, KEY
    )[0]
    assert float(found.std()) == pytest.approx(1.0, abs=0.02)
    # The start is forgotten: this is noise put back, not the first noise carried along.
    assert abs(np.corrcoef(found.ravel(), start.ravel())[0, 1]) < 0.15


def test_epsilon_at_zero_snr_is_refused_where_it_would_be_asked():
    config = {**SD15, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(InputError, match=r"epsilon.*zero signal.*v_prediction"):
        ddim(NoiseSchedule.from_config(config), 10)
    ddim(NoiseSchedule.from_config({**config, "timestep_spacing": "leading"}), 10)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_outside_0_to_1_is_refused(eta):
    with pytest.raises(InputError, match=f"eta={eta}"):
        ddim(NoiseSchedule.from_config(SD15), 10, eta)
