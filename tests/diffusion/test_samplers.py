"""Samplers by name: which options each has, what a scheduler_config.json names, what is refused."""

import numpy as np
import pytest

from moa_jax.diffusion import SAMPLERS, NoiseSchedule, ddim, euler, make_sampler, sampler_of, unipc
from moa_jax.errors import InputError
from tests.diffusion.trajectories import DIFFUSERS, SD15

SCHEDULE = NoiseSchedule.from_config(SD15)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own


def same(one, other):
    np.testing.assert_array_equal(one.timesteps, other.timesteps)
    np.testing.assert_array_equal(one.signals, other.signals)
    assert one.step is other.step and one.coefficients.keys() == other.coefficients.keys()
    for name, table in one.coefficients.items():
        np.testing.assert_array_equal(table, other.coefficients[name])


def test_options_reach_the_sampler():
    same(make_sampler("unipc", SCHEDULE, 9), unipc(SCHEDULE, 9))
    same(make_sampler("ddim", SCHEDULE, 9, eta=0.3, skip=2), ddim(SCHEDULE, 9, 0.3, skip=2))
    same(make_sampler("ddim", SCHEDULE, 9, eta=0.0), ddim(SCHEDULE, 9))
    same(make_sampler("euler", SCHEDULE, 9, karras=True), euler(SCHEDULE, 9, karras=True))


def test_an_unknown_sampler_is_told_the_names():
    with pytest.raises(InputError, match=r"sampler='plms': must be one of ddim, ddpm, .*unipc"):
        make_sampler("plms", SCHEDULE, 9)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler_a"])
def test_karras_levels_are_refused_where_there_are_none(name):
    says = rf"sampler='{name}' does not take karras=True; euler, dpm\+\+2m, unipc do"
    with pytest.raises(InputError, match=says):
        make_sampler(name, SCHEDULE, 9, karras=True)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddim"])
def test_eta_is_ddims_alone(name):
    with pytest.raises(InputError, match=r"does not take eta=0.0; ddim does"):
        make_sampler(name, SCHEDULE, 9, eta=0.0)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("skip", [-1, 5, 6])
def test_leaving_out_no_or_all_steps_is_refused(name, skip):
    with pytest.raises(InputError, match=rf"skip={skip}: of 5 steps 0 to 4 can be left out"):
        make_sampler(name, SCHEDULE, 5, skip=skip)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [0, 1001])
def test_step_counts_outside_the_schedule_are_refused(name, steps):
    with pytest.raises(InputError, match=f"num_inference_steps={steps} "):
        make_sampler(name, SCHEDULE, steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_not_predicted_from_noise_alone(name):
    config = {**SD15, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    for karras in (False, True) if name in ("euler", "dpm++2m", "unipc") else (False,):
        with pytest.raises(InputError, match=r"epsilon.*zero signal.*v_prediction"):
            make_sampler(name, NoiseSchedule.from_config(config), 10, karras=karras)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_samplers_of_diffusers_files_are_found(name):
    diffusers = pytest.importorskip("diffusers")
    released = {**SD15, "skip_prk_steps": True}  # as Stable Diffusion 1.5's own file says
    config = dict(getattr(diffusers, DIFFUSERS[name]).from_config(released).config)
    assert sampler_of({"_class_name": DIFFUSERS[name]}) == (name, False)
    assert sampler_of({**config, "_class_name": DIFFUSERS[name]}) == (name, False)


def test_karras_levels_are_read_where_the_class_has_them():
    for name in ("euler", "dpm++2m", "unipc"):
        config = {"_class_name": DIFFUSERS[name], "use_karras_sigmas": True}
        assert sampler_of(config) == (name, True)
    # A key that another class left behind: diffusers' DDIM does not read it.
    assert sampler_of({"_class_name": "DDIMScheduler", "use_karras_sigmas": True})[1] is False


@pytest.mark.parametrize(
    ("found", "nearest"),
    [
        ("LMSDiscreteScheduler", r"dpm\+\+2m"),
        ("HeunDiscreteScheduler", r"dpm\+\+2m"),
        ("KDPM2DiscreteScheduler", r"dpm\+\+2m"),
        ("KDPM2AncestralDiscreteScheduler", "euler_a"),
        ("DEISMultistepScheduler", r"dpm\+\+2m"),
    ],
)
def test_a_scheduler_that_is_not_here_is_told_the_nearest(found, nearest):
    with pytest.raises(InputError, match=f"{found} is not supported; the nearest.*: {nearest}$"):
        sampler_of({"_class_name": found})


@pytest.mark.parametrize("found", [None, "FlowMatchEulerDiscreteScheduler"])
def test_an_unknown_scheduler_is_told_what_is_supported(found):
    with pytest.raises(InputError, match=rf"_class_name={found!r}.*DDIMScheduler.*ddim, .*unipc"):
        sampler_of({"_class_name": found} if found else {})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dpm++2m", {"algorithm_type": "sde-dpmsolver++"}),
        ("dpm++2m", {"algorithm_type": "dpmsolver"}),
        ("dpm++2m", {"solver_order": 3}),
        ("dpm++2m", {"solver_type": "heun"}),
        ("dpm++2m", {"use_lu_lambdas": True}),
        ("unipc", {"solver_order": 3}),
        ("unipc", {"solver_type": "bh1"}),
        ("unipc", {"predict_x0": False}),
        ("unipc", {"lower_order_final": False}),
        ("unipc", {"disable_corrector": [0]}),
        ("unipc", {"final_sigmas_type": "sigma_min"}),
        ("euler", {"timestep_type": "continuous"}),
        ("euler", {"interpolation_type": "log_linear"}),
        ("euler", {"use_beta_sigmas": True}),
        ("euler", {"sigma_min": 0.002}),
        ("ddpm", {"variance_type": "fixed_large"}),
    ],
    ids=str,
)
def test_settings_that_are_not_here_are_named(name, change):
    ((key, value),) = change.items()
    with pytest.raises(InputError) as refused:
        sampler_of({"_class_name": DIFFUSERS[name], **change})
    assert f"{DIFFUSERS[name]} with {key}={value!r} is not supported" in str(refused.value)
    assert f"--sampler {name}" in str(refused.value)
