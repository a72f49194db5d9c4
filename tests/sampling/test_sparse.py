"""Drawing with sparse routing: what is shown, what is refused, what the options mean."""

import math

import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.sampling.settings import Settings
from tests.personal import MARKED, pixels, portrait

SUBJECTS = [portrait(1), portrait(2)]
DRAW = {"num_inference_steps": 4, "seed": 2}


def difference(one, other):
    """The largest difference in grey levels between the first pictures of two results."""
    return np.abs(pixels(one)[0] - pixels(other)[0]).max()


@pytest.mark.slow
def test_sparse_routing_shows_what_took_part_and_keeps_pictures_apart(personal):
    """A third of the pixels of each layer; a picture is the same in any batch."""
    sparse = personal(MARKED, SUBJECTS, capacity=1 / 3, **{**DRAW, "num_images": 2})
    for path, maps in sparse.routing.items():
        pixels = maps[0, 0].size
        taking = (maps > 0).sum(axis=(2, 3))
        assert (taking == math.ceil(pixels / 3)).all(), path
    alone = personal(MARKED, SUBJECTS, capacity=1 / 3, **{**DRAW, "num_images": 1})
    assert difference(sparse, alone) <= 2  # rounding
    prior = personal(MARKED, SUBJECTS, moa_strength=0.0, **{**DRAW, "num_images": 1})
    skipped = personal(MARKED, SUBJECTS, skip_below=1.0, **{**DRAW, "num_images": 1})
    assert difference(skipped, prior) <= 2
    assert difference(alone, prior) > 8


def test_sparse_routing_cannot_be_watched(personal):
    with pytest.raises(InputError, match=r"watch \(--look\) .*capacity=1 and skip_below=0"):
        personal(MARKED, SUBJECTS, capacity=0.5, watch=True, **DRAW)


def test_routing_is_sparse_only_if_something_is_left_out():
    assert Settings().sparse is None
    assert Settings(capacity=0.5).steering(()).sparse is None  # there is nothing to leave out
    steered = Settings(4, capacity=0.5, skip_below=0.1).steering(("mid",)).at(3)
    assert (steered.sparse.capacity, steered.sparse.skip_below) == (0.5, 0.1)


@pytest.mark.parametrize("capacity", [0.0, -1.0, 1.5, math.nan])
def test_a_capacity_that_is_no_share_is_refused(capacity):
    with pytest.raises(InputError, match=f"capacity={capacity}: must lie .*moa_strength=0"):
        Settings(capacity=capacity)


@pytest.mark.parametrize("below", [-0.1, 1.1, math.nan])
def test_a_threshold_that_is_no_weight_is_refused(below):
    with pytest.raises(InputError, match=f"skip_below={below}: must lie between 0 .off. and 1"):
        Settings(skip_below=below)
