"""Samplers by name: the names that commands take, and the names in diffusers' files."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from moa_jax.diffusion.ddim import ddim
from moa_jax.diffusion.ddpm import ddpm
from moa_jax.diffusion.dpm_solver import dpm_solver_pp_2m
from moa_jax.diffusion.euler import euler
from moa_jax.diffusion.euler_ancestral import euler_ancestral
from moa_jax.diffusion.lcm import lcm
from moa_jax.diffusion.pndm import pndm
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.diffusion.unipc import unipc
from moa_jax.errors import InputError
from moa_jax.extension import FORM, find, is_name

# A sampler's name on the command line -> (schedule, num_inference_steps, *, skip, ...) -> Sampler.
SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "euler": euler,
    "euler_a": euler_ancestral,
    "dpm++2m": dpm_solver_pp_2m,
    "unipc": unipc,
    "pndm": pndm,
    "lcm": lcm,
}

# diffusers' class -> our name, and the supported values of the settings in its file.
_TO_CLEAN = {"final_sigmas_type": ("zero",)}  # the last step ends at the clean picture
_OWN_SPREAD = {"use_exponential_sigmas": (False, None), "use_beta_sigmas": (False, None)}
_WHOLE_RANGE = {"sigma_min": (None,), "sigma_max": (None,)}  # of the schedule's levels
_CLASSES: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "DDIMScheduler": ("ddim", {}),
    "DDPMScheduler": ("ddpm", {"variance_type": ("fixed_small",)}),
    "EulerDiscreteScheduler": (
        "euler",
        {"interpolation_type": ("linear",), "timestep_type": ("discrete",)}
        | (_TO_CLEAN | _OWN_SPREAD | _WHOLE_RANGE),
    ),
    "EulerAncestralDiscreteScheduler": ("euler_a", {}),
    "DPMSolverMultistepScheduler": (
        "dpm++2m",
        # diffusers itself reads "deis" as "dpmsolver++", and the other types as "midpoint".
        {"algorithm_type": ("dpmsolver++", "deis"), "solver_order": (2,)}
        | {"solver_type": ("midpoint", "logrho", "bh1", "bh2"), "use_lu_lambdas": (False, None)}
        | (_TO_CLEAN | _OWN_SPREAD),
    ),
    "LCMScheduler": (
        "lcm",
        {"original_inference_steps": (50, None), "timestep_scaling": (10.0, 10, None)},
    ),
    "PNDMScheduler": ("pndm", {"skip_prk_steps": (True,)}),
    "UniPCMultistepScheduler": (
        "unipc",
        {"solver_order": (2,), "solver_type": ("bh2", "midpoint", "heun", "logrho")}
        | {"predict_x0": (True,), "lower_order_final": (True,), "disable_corrector": ([], None)}
        | {"solver_p": (None,)}
        | (_TO_CLEAN | _OWN_SPREAD | _WHOLE_RANGE),
    ),
}
# diffusers' classes that have no counterpart here -> the sampler most like each.
_NEAREST = {
    "CMStochasticIterativeScheduler": "euler_a",
    "DDIMInverseScheduler": "ddim",
    "DDIMParallelScheduler": "ddim",
    "DDPMParallelScheduler": "ddpm",
    "DEISMultistepScheduler": "dpm++2m",
    "DPMSolverMultistepInverseScheduler": "dpm++2m",
    "DPMSolverSDEScheduler": "euler_a",
    "DPMSolverSinglestepScheduler": "dpm++2m",
    "EDMDPMSolverMultistepScheduler": "dpm++2m",
    "EDMEulerScheduler": "euler",
    "HeunDiscreteScheduler": "dpm++2m",
    "IPNDMScheduler": "dpm++2m",
    "KDPM2AncestralDiscreteScheduler": "euler_a",
    "KDPM2DiscreteScheduler": "dpm++2m",
    "LMSDiscreteScheduler": "dpm++2m",
    "SASolverScheduler": "unipc",
    "TCDScheduler": "ddim",
}


def make_sampler(
    name: str,
    schedule: NoiseSchedule,
    num_inference_steps: int,
    *,
    skip: int = 0,
    karras: bool = False,
    eta: float | None = None,
) -> Sampler:
    """Lay out the steps of a sampler.

    Args:
        name: a key of SAMPLERS, or your own function as `package.module:name(option=1)`, which is
            called like the functions of SAMPLERS.
        num_inference_steps: 1 to the schedule's length.
        skip: how many of the first steps to leave out.
        karras: spread the noise levels as Karras et al. (2206.00364) do.
        eta: share of DDPM's noise put back at each step, 0 to 1; None means the sampler's default.

    Raises:
        InputError: there is no such sampler, it lacks an option, or a value is out of range.
    """
    planner = find_sampler(name)
    # What is not asked for is not passed, because not every sampler has the option.
    given = {"karras": karras or None, "eta": eta}
    options = {option: value for option, value in given.items() if value is not None}
    for option, value in options.items():
        if not _takes(planner, option):
            takers = [each for each in SAMPLERS if _takes(SAMPLERS[each], option)]
            raise InputError(
                f"sampler={name!r} does not take {option}={value}; {', '.join(takers)} "
                f"{'do' if len(takers) > 1 else 'does'}"
            )
    return planner(schedule, num_inference_steps, skip=skip, **options)


def find_sampler(name: str) -> Callable[..., Sampler]:
    """Look up a sampler by name; see `make_sampler`.

    Raises:
        InputError: there is no such sampler.
    """
    if name in SAMPLERS:
        return SAMPLERS[name]
    if is_name(name):
        return find(name, "sampler")
    raise InputError(
        f"sampler={name!r}: must be one of {', '.join(SAMPLERS)}, or your own as {FORM}"
    )


def sampler_of(config: Mapping[str, Any]) -> tuple[str, bool]:
    """Tell which sampler a diffusers `scheduler_config.json` names, and whether it uses `karras`.

    Raises:
        InputError: the scheduler, or one of its settings, is not supported; the message says what
            is.
    """
    found = config.get("_class_name")
    if found in _NEAREST:
        raise InputError(
            f"scheduler_config: {found} is not supported; the nearest sampler that is: "
            f"{_NEAREST[found]}"
        )
    if found not in _CLASSES:
        raise InputError(
            f"scheduler_config: _class_name={found!r} is not a known scheduler; supported are "
            f"{', '.join(_CLASSES)}: choose one of {', '.join(SAMPLERS)} by name"
        )
    name, settings = _CLASSES[found]
    for key, supported in settings.items():
        if key in config and config[key] not in supported:
            raise InputError(
                f"scheduler_config: {found} with {key}={config[key]!r} is not supported; only "
                f"{supported[0]!r} is, which --sampler {name} takes"
            )
    karras = bool(config.get("use_karras_sigmas"))
    return name, karras and _takes(SAMPLERS[name], "karras")


def _takes(planner: Callable[..., Sampler], option: str) -> bool:
    return option in inspect.signature(planner).parameters
