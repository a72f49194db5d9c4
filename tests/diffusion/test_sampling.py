"""The scan around a sampler: one compilation, float32 latents, aux, progress, keys, carry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import SAMPLERS, NoiseSchedule, Sampler, ddim, sample

SCHEDULE = NoiseSchedule.from_config(
    {"beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
)
LATENTS = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
KEY = jax.random.key(1)


def test_the_denoiser_is_traced_once_whatever_the_number_of_steps():
    traces = []

    def denoise(latents, timesteps):
        traces.append(latents.shape)
        return 0.1 * latents, ()

    jax.jit(lambda x: sample(denoise, ddim(SCHEDULE, 50), x, KEY)[0])(LATENTS).block_until_ready()
    assert traces == [LATENTS.shape]


def test_aux_is_stacked_over_steps_in_order():
    sampler = ddim(SCHEDULE, 5)
    _, aux = sample(lambda x, t: (x, {"asked": t}), sampler, LATENTS, KEY)
    np.testing.assert_array_equal(aux["asked"], np.tile(sampler.timesteps[:, None], (1, 3)))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_bfloat16_network_gives_finite_float32_latents(name, prediction_type):
    config = {"beta_schedule": "scaled_linear", "prediction_type": prediction_type}
    sampler = SAMPLERS[name](NoiseSchedule.from_config(config), 50)
    dtypes = set()

    def denoise(latents, timesteps, dtype):
        dtypes.add(latents.dtype.name)
        return (0.9 * jnp.tanh(latents.astype(dtype))).astype(dtype), ()

    low, high = (
        sample(lambda x, t, d=d: denoise(x, t, d), sampler, LATENTS.astype(jnp.bfloat16), KEY)[0]
        for d in (jnp.bfloat16, jnp.float32)
    )
    assert dtypes == {"float32"} and low.dtype == jnp.float32
    assert np.isfinite(low).all()
    assert np.abs(low - high).max() < 0.05 * np.abs(high).max()


def test_progress_reports_each_step_once():
    seen = []
    run = jax.jit(lambda x: sample(lambda x, t: (x, ()), ddim(SCHEDULE, 7), x, KEY, seen.append)[0])
    run(LATENTS).block_until_ready()
    jax.effects_barrier()
    assert sorted(seen) == list(range(7))


def test_progress_changes_nothing():
    def run(on_step):
        return sample(lambda x, t: (jnp.sin(x), ()), ddim(SCHEDULE, 7, 0.5), LATENTS, KEY, on_step)[
            0
        ]

    np.testing.assert_array_equal(run(None), run(lambda index: None))


def test_a_key_per_picture_gives_the_same_picture_in_any_batch():
    sampler = ddim(SCHEDULE, 4, eta=1.0)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together, _ = sample(lambda x, t: (0.5 * x, ()), sampler, LATENTS, keys)
    alone, _ = sample(lambda x, t: (0.5 * x, ()), sampler, LATENTS[2:], keys[2:])
    np.testing.assert_allclose(together[2:], alone, atol=1e-6)
    one, _ = sample(lambda x, t: (0.5 * x, ()), sampler, jnp.tile(LATENTS[:1], (2, 1, 1, 1)), KEY)
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
            coefficients={"size": np.full(steps, 1.0 / steps)},
            step=step,
            init=lambda latents: (jnp.zeros_like(latents), jnp.array(False)),
        )
        end, _ = sample(lambda x, t: (-x, t), sampler, jnp.ones((1, 1, 1, 1)), KEY)
        return abs(end.item() - np.exp(-1.0))

    assert 3.4 < run(10) / run(20) < 4.6
