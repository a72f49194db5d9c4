"""Settings as tables over steps and layers; what is said wrongly is named."""

import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.settings import Settings, Strength, strength_table

BLOCKS = tuple(
    f"{stage}.attentions.0.transformer_blocks.0"
    for stage in ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0")
)


def test_a_strength_of_one_changes_nothing_and_has_no_table():
    assert strength_table(1.0, 4, BLOCKS) is None
    assert strength_table([Strength(1.0, "up")], 4, BLOCKS) is None
    assert strength_table(0.5, 4, ()) is None  # no mixtures


def test_strengths_apply_to_their_layers_and_steps_and_the_later_one_wins():
    dials = [Strength(0.5), Strength(0.0, "down_blocks", end=0.5), Strength(2.0, "mid", start=0.5)]
    expected = [[0, 0, 0.5, 0.5]] * 2 + [[0.5, 0.5, 2.0, 0.5]] * 2
    np.testing.assert_array_equal(strength_table(dials, 4, BLOCKS), expected)


def test_layers_that_do_not_exist_are_named_with_those_that_do():
    with pytest.raises(InputError, match="begins with 'middle'; there are down_blocks.0, .*mid"):
        strength_table([Strength(0.5, "middle")], 4, BLOCKS)


def test_guidance_is_left_out_whole_or_where_it_is_not_wanted():
    for scale in (-1.0, 0.0, 1.0):
        assert Settings(guidance_scale=scale).steering(BLOCKS).guidance_scale is None
    settings = Settings(4, guidance_scale=3.0, guidance_interval=(0.25, 0.75))
    np.testing.assert_array_equal(settings.steering(()).guidance_scale, [1.0, 3.0, 3.0, 1.0])
    assert settings.steering(()).guidance_rescale is None
    assert Settings(guidance_rescale=0.7).steering(()).guidance_rescale == np.float32(0.7)


def test_what_is_skipped_of_the_steps_is_skipped_of_every_table():
    settings = Settings(4, guidance_scale=3.0, moa_strength=[Strength(0.0, start=0.5)])
    whole, part = settings.steering(BLOCKS), settings.steering(BLOCKS, skip=1)
    np.testing.assert_array_equal(part.guidance_scale, whole.guidance_scale[1:])
    np.testing.assert_array_equal(part.strength, whole.strength[1:])


def test_the_checkpoints_own_sampler():
    named = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    settings = Settings(sampler="checkpoint").resolved(named)
    assert (settings.sampler, settings.karras) == ("dpm++2m", True)
    assert Settings(sampler="ddim").resolved(named) == Settings(sampler="ddim")
    with pytest.raises(InputError, match="PNDMScheduler is not supported; the nearest"):
        Settings(sampler="checkpoint").resolved({"_class_name": "PNDMScheduler"})
