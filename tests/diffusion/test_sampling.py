"""The loop around a sampler: what is compiled, float32 latents, aux, progress, keys, carry."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import SAMPLERS, NoiseSchedule, Sampler, ddim, sample
from moa_jax.diffusion.sampling import AHEAD
from tests.diffusion.trajectories import assert_close, follow, keys_of_step

SCHEDULE = NoiseSchedule.from_config(
    {"beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
)
LATENTS = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
KEY = jax.random.key(1)


def test_no_sampler_and_no_number_of_steps_traces_the_denoiser_again():
    traces = []

    @jax.jit
    def denoise(latents, timesteps):
        traces.append(latents.shape)
        return 0.1 * latents, ()

    for name in SAMPLERS:
        for steps in (1, 7, 50):
            plan = SAMPLERS[name](SCHEDULE, steps)
            end, _ = sample(lambda x, t, _: denoise(x, t), plan, LATENTS, KEY)
            assert np.isfinite(end).all()
    assert traces == [LATENTS.shape]


def test_aux_is_given_for_every_step_in_order():
    sampler = ddim(SCHEDULE, 5)
    _, aux = sample(lambda x, t, i: (x, {"asked": t, "step": i}), sampler, LATENTS, KEY)
    np.testing.assert_array_equal(
        [each["asked"] for each in aux], np.tile(sampler.timesteps[:, None], (1, 3))
    )
    assert [each["step"] for each in aux] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_bfloat16_network_gives_finite_float32_latents(name):
    dtypes = set()

    def denoise(latents, timesteps, step):
        dtypes.add(latents.dtype.name)
        return 0.9 * jnp.tanh(latents.astype(jnp.bfloat16)), ()

    for prediction_type in ("epsilon", "v_prediction", "sample"):
        for spacing in ("leading", "linspace", "trailing"):
            for zero_snr in (False, True) if prediction_type == "v_prediction" else (False,):
                config = {"beta_schedule": "scaled_linear", "prediction_type": prediction_type}
                config |= {"rescale_betas_zero_snr": zero_snr, "timestep_spacing": spacing}
                plan = SAMPLERS[name](NoiseSchedule.from_config(config), 30)
                low, _ = sample(denoise, plan, LATENTS.astype(jnp.bfloat16), KEY)
                assert low.dtype == jnp.float32 and np.isfinite(low).all()
                keys = partial(keys_of_step, count=len(LATENTS), seed=1)
                high = follow(plan, LATENTS, lambda x, t, row: 0.9 * np.tanh(x), keys)[-1]
                assert np.abs(low - high).max() < 0.05 * np.abs(high).max()
    assert dtypes == {"float32"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_loop_is_the_plan_followed_in_float64(name):
    plan = SAMPLERS[name](SCHEDULE, 25)
    found, _ = sample(lambda x, t, _: (jnp.sin(2.0 * x), ()), plan, LATENTS, KEY)
    keys = partial(keys_of_step, count=len(LATENTS), seed=1)
    expected = follow(plan, LATENTS, lambda x, t, row: np.sin(2.0 * x), keys)[-1]
    assert_close(found, expected, 1e-5)


def test_progress_reports_each_step_once_and_in_order():
    seen, latents = zip(*steps_of(7), strict=True)
    assert seen == tuple(range(7))
    ends = [np.asarray(each) for each in latents]
    # Each comes with its own latents: those of the last are the result, and all differ.
    np.testing.assert_array_equal(ends[-1], sample(halve, ddim(SCHEDULE, 7), LATENTS, KEY)[0])
    assert len({each.tobytes() for each in ends}) == 7


def test_what_is_raised_after_a_step_ends_the_sampling():
    asked = []

    def stop(step, latents):
        raise KeyboardInterrupt

    def denoise(latents, timesteps, step):
        asked.append(step)
        return latents, ()

    with pytest.raises(KeyboardInterrupt):
        sample(denoise, ddim(SCHEDULE, 9), LATENTS, KEY, stop)
    assert len(asked) == AHEAD + 1


def halve(latents, timesteps, step):
    return 0.5 * latents, ()


def steps_of(count):
    seen = []
    sample(halve, ddim(SCHEDULE, count), LATENTS, KEY, lambda *step: seen.append(step))
    return seen


def test_the_device_is_given_steps_ahead_and_never_all_of_them():
    asked, lead = [], []

    def denoise(latents, timesteps, step):
        asked.append(step)
        return latents, ()

    def after(row, latents):
        lead.append(len(asked) - 1 - row)

    sample(denoise, ddim(SCHEDULE, 9), LATENTS, KEY, after)
    assert lead == [AHEAD] * (9 - AHEAD) + [*range(AHEAD)][::-1]


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
