"""Whole trajectories in float64, ours and diffusers', of one denoiser that both can ask.

Ours follows a plan row by row with its own step function; diffusers' schedulers get our float64
noise schedule in place of their float32 one, and the noise that our keys draw.
"""

import importlib
from functools import cache
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion.sampling import normal_like

SD15 = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
ZERO_SNR = {**SD15, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(size=(2, 3, 4, 4))
CLEAN = RANDOM.normal(size=NOISE.shape)
KEY = jax.random.key(7)
INNER, OUTER = RANDOM.normal(size=(5, 8)), RANDOM.normal(size=(8, 4)) / 8.0

DIFFUSERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "pndm": "PNDMScheduler",
    "lcm": "LCMScheduler",
}
# They take any number of steps, and a spacing, and ask the network once a step.
ANY_COUNT = [name for name in DIFFUSERS if name not in ("pndm", "lcm")]


def network(latents, timestep, row=None):
    """A small random network over a smooth, non-linear function."""
    time = np.full((*latents.shape[:-1], 1), timestep / 500.0 - 1.0)
    hidden = np.tanh(np.concatenate([latents, time], -1) @ INNER)
    return 0.8 * latents + 0.3 * np.sin(2.0 * latents + 0.004 * timestep) + hidden @ OUTER


@cache
def compiled(step):
    return jax.jit(step)


@cache
def keys_of_step(index, count=2, seed=7):
    return jax.vmap(jax.random.fold_in, (0, None))(
        jax.random.split(jax.random.key(seed), count), index
    )


@cache
def noise_of_step(index):
    return np.asarray(normal_like(jnp.asarray(NOISE, jnp.float32), keys_of_step(index)))


def follow(plan, latents, denoise=network, keys_of=keys_of_step):
    """Give the latents before each row of a plan, and after the last."""
    with jax.enable_x64(True):
        before = [jnp.asarray(latents, jnp.float64)]
        carry, step = plan.init(before[0]), compiled(plan.step)
        for index, timestep in enumerate(plan.timesteps):
            prediction = jnp.asarray(denoise(np.asarray(before[-1]), timestep, index))
            row = {name: jnp.asarray(table[index]) for name, table in plan.coefficients.items()}
            keys = keys_of(index if "fresh_noise" in row else 0)
            latents, carry = step(before[-1], prediction, carry, row, keys)
            before.append(latents)
        return [np.asarray(latents) for latents in before]


def scheduler(name, schedule, config, steps, karras=False):
    """diffusers' own, over our float64 schedule."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    options = {"use_karras_sigmas": True} if karras else {}
    theirs = getattr(diffusers, DIFFUSERS[name]).from_config(config, **options)
    alphas = schedule.alphas_cumprod.copy()
    if "Discrete" in DIFFUSERS[name] or "Multistep" in DIFFUSERS[name]:
        alphas[alphas == 0.0] = 2.0**-24
    theirs.alphas_cumprod = torch.tensor(alphas)
    if name in ("ddim", "pndm"):
        theirs.final_alpha_cumprod = torch.tensor(schedule.final_alpha_cumprod, dtype=torch.float64)
    theirs.set_timesteps(steps)
    if hasattr(theirs, "sigmas"):  # at sigma 4096, float32 is too coarse for Euler's differences
        theirs.sigmas = theirs.sigmas.double()
    return theirs


def run_theirs(name, theirs, clean=None, skip=0, eta=0.0, denoise=network):
    """Follow diffusers from noise, or from a clean picture's place in its coordinates."""
    torch = pytest.importorskip("torch")
    index, latents = 0, float(theirs.init_noise_sigma) * torch.tensor(NOISE)
    if hasattr(theirs, "set_begin_index"):  # it goes astray where a timestep comes twice: 12771
        theirs.set_begin_index(skip)
    if clean is not None:
        level = theirs.timesteps[[skip] * len(clean)]
        latents = theirs.add_noise(torch.tensor(clean), torch.tensor(NOISE), level)
    fresh = mock.Mock(side_effect=lambda *a, **k: torch.tensor(noise_of_step(index)).double())
    module = importlib.import_module(type(theirs).__module__)
    # Euler and DPM-Solver cast latents to float32.
    double = mock.patch.object(torch, "float32", torch.float64)
    with double, mock.patch.object(module, "randn_tensor", fresh, create=True):
        for index, timestep in enumerate(theirs.timesteps[skip:]):  # noqa: B007
            scaled = theirs.scale_model_input(latents, timestep)
            output = torch.tensor(denoise(scaled.double().numpy(), float(timestep)))
            options = {"eta": eta} if name == "ddim" else {}
            latents = theirs.step(output, timestep, latents, **options).prev_sample.double()
    return latents.numpy()


def reference(schedule, timesteps, signals, latents, eta=0.0, denoise=network):
    """DDIM, Eq. 12, step by step over the given levels."""
    for index, timestep in enumerate(timesteps):
        now, following = signals[index] ** 2, signals[index + 1] ** 2
        output = denoise(latents, timestep)
        if schedule.prediction_type == "epsilon":
            clean, noise = (latents - np.sqrt(1 - now) * output) / np.sqrt(now), output
        elif schedule.prediction_type == "sample":
            clean, noise = output, (latents - np.sqrt(now) * output) / np.sqrt(1 - now)
        else:
            clean = np.sqrt(now) * latents - np.sqrt(1 - now) * output
            noise = np.sqrt(1 - now) * latents + np.sqrt(now) * output
        sigma = eta * np.sqrt((1 - following) / (1 - now) * (1 - now / following))
        latents = np.sqrt(following) * clean + np.sqrt(1 - following - sigma**2) * noise
        latents = latents + sigma * noise_of_step(index)
    return latents


def assert_close(found, expected, tolerance=1e-4):
    assert np.isfinite(found).all()
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= tolerance, error
