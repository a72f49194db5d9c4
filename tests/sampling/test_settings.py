"""Settings as tables over steps and layers; what is said wrongly is named."""

import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.sampling.settings import Settings, Strength, dial_table

BLOCKS = tuple(
    f"{stage}.attentions.0.transformer_blocks.0"
    for stage in ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0")
)


def test_strengths_are_a_table_where_there_are_mixtures():
    np.testing.assert_array_equal(dial_table(1.0, 4, BLOCKS), np.ones((4, 4)))
    assert dial_table(0.5, 4, ()) is None


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.array(0.5), jnp.float32(0.5)])
def test_a_strength_is_a_number_of_any_kind(number):
    np.testing.assert_array_equal(dial_table(number, 2, BLOCKS), np.full((2, 4), 0.5))


def test_strengths_apply_to_their_layers_and_steps_and_the_later_one_wins():
    dials = [Strength(0.5), Strength(0.0, "down_blocks", end=0.5), Strength(2.0, "mid", start=0.5)]
    expected = [[0, 0, 0.5, 0.5]] * 2 + [[0.5, 0.5, 2.0, 0.5]] * 2
    np.testing.assert_array_equal(dial_table(dials, 4, BLOCKS), expected)


def test_layers_that_do_not_exist_are_named_with_those_that_do():
    with pytest.raises(InputError, match="begins with 'middle'; there are down_blocks.0, .*mid"):
        dial_table([Strength(0.5, "middle")], 4, BLOCKS)


def test_guidance_is_left_out_whole_or_where_it_is_not_wanted():
    for scale in (-1.0, 0.0, 1.0):
        assert Settings(guidance_scale=scale).steering(BLOCKS).guidance_scale is None
    settings = Settings(4, guidance_scale=3.0, guidance_interval=(0.25, 0.75))
    np.testing.assert_array_equal(settings.steering(()).guidance_scale, [1.0, 3.0, 3.0, 1.0])
    assert (settings.steering(()).guidance_rescale == 0.0).all()
    assert (Settings(guidance_rescale=0.7).steering(()).guidance_rescale == 0.7).all()


def test_a_part_of_the_steps_is_a_part_of_those_that_are_taken():
    """As diffusers counts the range of a ControlNet in image to image: [1 1 0 0 0] of 5 steps."""
    first_half = {"guidance_interval": (0.0, 0.5), "moa_strength": [Strength(0.0, end=0.5)]}
    steering = Settings(10, guidance_scale=3.0, **first_half).steering(BLOCKS, skip=5)
    np.testing.assert_array_equal(steering.guidance_scale, [3.0, 3.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(steering.dial[:, 0], [0.0, 0.0, 1.0, 1.0, 1.0])


def test_a_step_reads_its_own_row_of_every_table():
    dials = [Strength(0.25, start=0.75)]
    steering = Settings(4, guidance_scale=3.0, guidance_rescale=0.5, moa_strength=dials)
    steering = steering.steering(BLOCKS)._replace(controls=(np.array([0.1, 0.2, 0.3, 0.4]),))
    first, last = steering.at(0), steering.at(3)
    assert first.guidance_scale == last.guidance_scale == 3.0
    assert first.guidance_rescale == last.guidance_rescale == 0.5
    np.testing.assert_array_equal(first.dial, [1.0] * 4)
    np.testing.assert_array_equal(last.dial, [0.25] * 4)
    assert (first.controls, last.controls) == ((np.float32(0.1),), (np.float32(0.4),))
    assert Settings(guidance_scale=1.0).steering(()).at(7) == (None, None, None, (), None)


def test_a_delay_is_the_first_share_of_the_steps_that_are_taken():
    """FastComposer's 10 of 50 steps; and nothing changes where there is no delay."""
    for guidance in (1.0, 5.0):
        steering = Settings(50, delay=0.2, guidance_scale=guidance).steering(BLOCKS)
        assert [steering.sees_subjects(step) for step in range(50)] == [False] * 10 + [True] * 40
    half = Settings(10, delay=0.5).steering((), skip=4)
    assert [half.sees_subjects(step) for step in range(6)] == [False] * 3 + [True] * 3
    without = Settings(10).steering(BLOCKS)
    assert without.subjects is None and without.sees_subjects(0)
    assert half.at(0) == Settings(10).steering(()).at(0)
    for delay in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=f"delay={delay}: must lie between 0 .off. and 1"):
            Settings(delay=delay)


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_interval": (0.3, 0.4)},
        {"moa_strength": [Strength(0.0, end=0.2)]},
        {"delay": 0.2},
    ],
)
def test_a_part_in_which_no_step_lies_is_said(options):
    with pytest.raises(InputError, match="holds none of the 4 steps"):
        Settings(4, **options).steering(BLOCKS)


def test_the_checkpoints_own_sampler():
    named = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    settings = Settings(sampler="checkpoint").resolved(named)
    assert (settings.sampler, settings.karras) == ("dpm++2m", True)
    assert Settings(sampler="ddim").resolved(named) == Settings(sampler="ddim")
    with pytest.raises(InputError, match="HeunDiscreteScheduler is not supported; the nearest"):
        Settings(sampler="checkpoint").resolved({"_class_name": "HeunDiscreteScheduler"})
