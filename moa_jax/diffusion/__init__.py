"""Diffusion as functions of a denoiser: noise schedule, samplers, guidance. Knows no networks."""

from moa_jax.diffusion.ddim import ddim
from moa_jax.diffusion.guidance import classifier_free_guidance
from moa_jax.diffusion.sampling import Denoiser, Sampler, sample
from moa_jax.diffusion.schedule import NoiseSchedule, add_noise, training_target

# A sampler's name on the command line -> (schedule, num_inference_steps, ...) -> Sampler.
SAMPLERS = {"ddim": ddim}

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "NoiseSchedule",
    "Sampler",
    "add_noise",
    "classifier_free_guidance",
    "ddim",
    "sample",
    "training_target",
]
