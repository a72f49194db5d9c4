"""Diffusion as functions of a denoiser: noise schedule, samplers, guidance.

No network is imported.
"""

from moa_jax.diffusion.ddim import ddim
from moa_jax.diffusion.ddpm import ddpm
from moa_jax.diffusion.dpm_solver import dpm_solver_pp_2m
from moa_jax.diffusion.euler import euler
from moa_jax.diffusion.euler_ancestral import euler_ancestral
from moa_jax.diffusion.guidance import classifier_free_guidance, over_steps
from moa_jax.diffusion.inversion import ddim_inversion, ends_of_steps
from moa_jax.diffusion.samplers import SAMPLERS, make_sampler, sampler_of
from moa_jax.diffusion.sampling import Denoiser, OnStep, Sampler, sample
from moa_jax.diffusion.schedule import NoiseSchedule, add_noise, training_target
from moa_jax.diffusion.unipc import unipc

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "NoiseSchedule",
    "OnStep",
    "Sampler",
    "add_noise",
    "classifier_free_guidance",
    "ddim",
    "ddim_inversion",
    "ddpm",
    "dpm_solver_pp_2m",
    "ends_of_steps",
    "euler",
    "euler_ancestral",
    "make_sampler",
    "over_steps",
    "sample",
    "sampler_of",
    "training_target",
    "unipc",
]
