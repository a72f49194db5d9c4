"""The scan around a sampler: one compilation, float32 latents, aux, progress, keys, carry."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import SAMPLERS, NoiseSchedule, Sampler, ddim, sample
from tests.diffusion.trajectories import assert_close, follow, keys_of_step

SCHEDULE = NoiseSchedule.from_config(
    {"beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
)
LATENTS = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
KEY = jax.random.key(1)


def test_the_denoiser_is_traced_once_whatever_the_number_of_steps():
    traces = []

    def denoise(latents, timesteps, step):
        traces.append(latents.shape)
        return 0.1 * latents, ()

    jax.jit(lambda x: sample(denoise, ddim(SCHEDULE, 50), x, KEY)[0])(LATENTS).block_until_ready()
    assert traces == [LATENTS.shape]


def test_aux_is_stacked_over_steps_in_order():
    sampler = ddim(SCHEDULE, 5)
    _, aux = sample(lambda x, t, _: (x, {"asked": t}), sampler, LATENTS, KEY)
    np.testing.assert_array_equal(aux["asked"], np.tile(sampler.timesteps[:, None], (1, 3)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_bfloat16_network_gives_finite_float32_latents(name):
    dtypes = set()

    def denoise(latents, timesteps, step):
        dtypes.add(latents.dtype.name)
        return 0.9 * jnp.tanh(latents.astype(jnp.bfloat16)), ()

    run = jax.jit(lambda plan, x: sample(denoise, plan, x, KEY)[0])
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        for spacing in ("leading", "linspace", "trailing"):
            for zero_snr in (False, True) if prediction_type == "v_prediction" else (False,):
                config = {"beta_schedule": "scaled_linear", "prediction_type": prediction_type}
                config |= {"rescale_betas_zero_snr": zero_snr, "timestep_spacing": spacing}
                plan = SAMPLERS[name](NoiseSchedule.from_config(config), 30)
                low = run(plan, LATENTS.astype(jnp.bfloat16))
                assert low.dtype == jnp.float32 and np.isfinite(low).all()
                keys = partial(keys_of_step, count=len(LATENTS), seed=1)
                high = follow(plan, LATENTS, lambda x, t, row: 0.9 * np.tanh(x), keys)[-1]
                assert np.abs(low - high).max() < 0.05 * np.abs(high).max()
    assert dtypes == {"float32"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_compiled_scan_is_the_plan_followed_in_float64(name):
    plan = SAMPLERS[name](SCHEDULE, 25)
    run = jax.jit(lambda plan, x: sample(lambda x, t, _: (jnp.sin(2.0 * x), ()), plan, x, KEY)[0])
    keys = partial(keys_of_step, count=len(LATENTS), seed=1)
    expected = follow(plan, LATENTS, lambda x, t, row: np.sin(2.0 * x), keys)[-1]
    assert_close(run(plan, LATENTS), expected, 1e-5)


def test_progress_reports_each_step_once():
    seen = []
    run = jax.jit(
        lambda x: sample(lambda x, t, _: (x, ()), ddim(SCHEDULE, 7), x, KEY, seen.append)[0]
    )
    run(LATENTS).block_until_ready()
    jax.effects_barrier()
    assert sorted(seen) == list(range(7))


def test_progress_changes_nothing():
    def run(on_step):
        return sample(
            lambda x, t, _: (jnp.sin(x), ()), ddim(SCHEDULE, 7, 0.5), LATENTS, KEY, on_step
        )[0]

    np.testing.assert_array_equal(run(None), run(lambda index: None))


def test_a_key_per_picture_gives_the_same_picture_in_any_batch():
    sampler = ddim(SCHEDULE, 4, eta=1.0)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together, _ = sample(lambda x, t, _: (0.5 * x, ()), sampler, LATENTS, keys)
    alone, _ = sample(lambda x, t, _: (0.5 * x, ()), sampler, LATENTS[2:], keys[2:])
    np.testing.assert_allclose(together[2:], alone, atol=1e-6)
    one, _ = sample(
        lambda x, t, _: (0.5 * x, ()), sampler, jnp.tile(LATENTS[:1], (2, 1, 1, 1)), KEY
    )
    assert (
        np.abs(one[0] - one[1]).max() > 0.1
    )  # from one key too, no two pictures share their noise


def test_a_multistep_sampler_fits_the_interface():
    # Adams-Bashforth 2 for dx/ds = -x on s in [0, 1]: exp(-1) with second-order error.
    def run(steps):
        def step(latents, prediction, carry, row, keys):
            previous, started = carry
            slope = jnp.where(started, 1.5 * prediction - 0.5 * previous, prediction)
            return latents + row["size"] * slope, (prediction, jnp.array(True))

        sampler = Sampler(
            timesteps=np.linspace(0.0, 1.0, steps, endpoint=False),
            signals=np.linspace(0.0, 1.0, steps + 1),
            coefficients={"size": np.full(steps, 1.0 / steps)},
            step=step,
            init=lambda latents: (jnp.zeros_like(latents), jnp.array(False)),
        )
        end, _ = sample(lambda x, t, _: (-x, t), sampler, jnp.ones((1, 1, 1, 1)), KEY)
        return abs(end.item() - np.exp(-1.0))

    assert 3.4 < run(10) / run(20) < 4.6


def test_a_plan_is_an_argument_of_the_compiled_program():
    traces = []

    def denoise(latents, timesteps, step):
        traces.append(1)
        return 0.1 * latents, ()

    run = jax.jit(lambda plan, x: sample(denoise, plan, x, KEY)[0])
    ends = [
        run(ddim(NoiseSchedule.from_config({"beta_schedule": betas}), 6), LATENTS)
        for betas in ("scaled_linear", "linear")
    ]
    assert len(traces) == 1
    expected = sample(denoise, ddim(SCHEDULE, 6), LATENTS, KEY)[0]
    np.testing.assert_allclose(ends[0], expected, atol=1e-6)
    assert np.abs(ends[1] - expected).max() > 1e-3


def test_what_comes_after_a_step_sees_its_latents_and_index():
    plan = ddim(SCHEDULE, 5)
    keep = jnp.zeros((1, 2, 2, 1)).at[:, 0].set(1.0)
    clean, noise = jnp.ones_like(LATENTS), jax.random.normal(KEY, LATENTS.shape)

    def known(latents, step):
        return jnp.where(keep > 0, plan.noisy(clean, noise, step + 1), latents)

    end, levels = sample(
        lambda x, t, _: (0.5 * x, x), plan, plan.noisy(clean, noise, 0), KEY, after_step=known
    )
    for step, level in enumerate(levels):
        np.testing.assert_allclose(level[:, 0], plan.noisy(clean, noise, step)[:, 0], rtol=1e-6)
    signal = plan.signals[-1]
    np.testing.assert_allclose(
        end[:, 0], (signal + np.sqrt(1 - signal**2) * noise)[:, 0], rtol=1e-6
    )
    assert np.abs(end[:, 1] - clean[:, 1]).max() > 0.1
