"""The noise schedule against diffusers, against its defining formulas, and its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion.schedule import NoiseSchedule, add_noise, training_target
from moa_jax.errors import InputError
from tests.backbone.full_size_configs import SCHEDULER_SD15 as SD15
from tests.backbone.full_size_configs import SCHEDULER_SD21 as SD21

CONFIGS = {
    "sd15": SD15,
    "linear": {"beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 300},
    "trained": {"trained_betas": [0.1, 0.2, 0.35]},
    "zero_snr": {**SD21, "rescale_betas_zero_snr": True},
}


def test_base_models_load():
    sd15, sd21 = NoiseSchedule.from_config(SD15), NoiseSchedule.from_config(SD21)
    assert (sd15.prediction_type, sd21.prediction_type) == ("epsilon", "v_prediction")
    assert sd15.spacing is None and sd15.steps_offset == 1
    assert sd15.final_alpha_cumprod == sd15.alphas_cumprod[0]
    # 1 - beta_start, and the product's end as the models' papers have it: sqrt of it is 0.0683.
    assert sd15.alphas_cumprod[0] == pytest.approx(1 - 0.00085)
    assert np.sqrt(sd15.alphas_cumprod[-1]) == pytest.approx(0.0683, abs=1e-4)
    np.testing.assert_array_equal(sd15.inference_timesteps(50), np.arange(981, 0, -20))


@pytest.mark.parametrize("name", CONFIGS)
def test_alphas_agree_with_diffusers(name):
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("torch")
    schedule = NoiseSchedule.from_config(CONFIGS[name])
    theirs = diffusers.DDIMScheduler.from_config(CONFIGS[name]).alphas_cumprod.numpy()
    assert schedule.alphas_cumprod.dtype == np.float64
    # Theirs is a float32 product over T factors.
    np.testing.assert_allclose(schedule.alphas_cumprod, theirs, rtol=1e-4, atol=1e-7)


def test_zero_snr_ends_in_pure_noise_and_starts_unchanged():
    plain = NoiseSchedule.from_config(SD21)
    zero = NoiseSchedule.from_config({**SD21, "rescale_betas_zero_snr": True})
    assert zero.alphas_cumprod[-1] == 0.0
    assert zero.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0], rel=1e-12)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_timesteps_descend_without_repeats_for_every_count(spacing):
    schedule = NoiseSchedule.from_config({**SD15, "timestep_spacing": spacing})
    for n in range(1, 1001):
        timesteps = schedule.inference_timesteps(n)
        assert len(timesteps) == n and (np.diff(timesteps) < 0).all()
        assert timesteps[0] <= 999 and timesteps[-1] >= 0
        if spacing != "leading":
            assert timesteps[0] == 999


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_timesteps_agree_with_diffusers(spacing):
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("torch")
    config = {**SD15, "timestep_spacing": spacing}
    schedule, theirs = (
        NoiseSchedule.from_config(config),
        diffusers.DDIMScheduler.from_config(config),
    )
    for n in [2, 3, 7, 13, 25, 50, 333, 700, 999]:
        theirs.set_timesteps(n)
        np.testing.assert_array_equal(schedule.inference_timesteps(n), theirs.timesteps.numpy())


def test_the_offset_gives_way_at_the_end_of_the_schedule():
    # diffusers asks for timestep 1000 of 0..999 here and fails (its issue 10003).
    timesteps = NoiseSchedule.from_config(SD15).inference_timesteps(1000)
    np.testing.assert_array_equal(timesteps, np.arange(1000)[::-1])


@pytest.mark.parametrize("name", ["sd15", "zero_snr", "cosine"])
def test_add_noise_and_velocity_agree_with_diffusers(name):
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    schedule = NoiseSchedule.from_config({**CONFIGS[name], "prediction_type": "v_prediction"})
    theirs = diffusers.DDIMScheduler.from_config(CONFIGS[name])
    latents, noise = np.random.default_rng(0).normal(size=(2, 4, 3, 5, 4)).astype(np.float32)
    timesteps = np.array([0, 17, 200, schedule.num_train_timesteps - 1])
    ours = jax.jit(
        lambda x, n, t: (add_noise(schedule, x, n, t), training_target(schedule, x, n, t))
    )
    noisy, velocity = ours(latents, noise, timesteps)
    arguments = torch.tensor(latents), torch.tensor(noise), torch.tensor(timesteps)
    np.testing.assert_allclose(noisy, theirs.add_noise(*arguments), atol=2e-5)
    np.testing.assert_allclose(velocity, theirs.get_velocity(*arguments), atol=2e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_target_gives_back_the_clean_latents_and_the_noise(prediction_type):
    schedule = NoiseSchedule.from_config({**SD15, "prediction_type": prediction_type})
    clean, noise = np.random.default_rng(1).normal(size=(2, 3, 2, 2, 4)).astype(np.float32)
    timesteps = np.array([1, 400, 999])
    arguments = [jnp.asarray(array) for array in (clean, noise, timesteps)]
    noisy = np.asarray(add_noise(schedule, *arguments))
    target = np.asarray(training_target(schedule, *arguments))
    signals = np.sqrt(schedule.alphas_cumprod[timesteps])
    weights = schedule.clean_and_noise(timesteps, signals)
    for expected, (a, b) in zip((clean, noise), weights, strict=True):
        found = a[:, None, None, None] * noisy + b[:, None, None, None] * target
        # float32 noisy latents over sqrt(alphas_cumprod[999]) = 0.07 or sigma_1 = 0.04.
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"clip_sample": True}, "clip_sample=True"),
        ({"thresholding": True}, "thresholding=True"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'.*scaled_linear"),
        ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction'.*epsilon"),
        ({"timestep_spacing": "karras"}, "timestep_spacing='karras'.*trailing"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps='many'.*int"),
        ({"beta_start": 0.5}, "beta_end=0.012.*between 0.5"),
        ({"steps_offset": -1}, "steps_offset=-1"),
        ({"trained_betas": [0.1, 1.5]}, "trained_betas"),
    ],
)
def test_unsupported_values_are_named(change, says):
    with pytest.raises(InputError, match=says):
        NoiseSchedule.from_config({**SD15, **change})


def test_a_scheduler_without_betas_is_named():
    with pytest.raises(InputError, match="FlowMatchEulerDiscreteScheduler has no beta_schedule"):
        NoiseSchedule.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_step_counts_outside_the_schedule_are_refused(steps):
    with pytest.raises(InputError, match=f"num_inference_steps={steps} .* 1 and 1000"):
        NoiseSchedule.from_config(SD15).inference_timesteps(steps)
