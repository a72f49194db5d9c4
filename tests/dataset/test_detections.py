"""Which of several found things is a subject."""

import numpy as np

from moa_jax.dataset.detections import choose

LEFT, RIGHT = (0.0, 0.0, 40.0, 100.0), (60.0, 0.0, 100.0, 100.0)


def test_the_likely_thing_that_overlaps_most_is_chosen():
    boxes = np.array([LEFT, RIGHT, (0, 0, 41, 100), (0, 0, 40, 100)])
    scores = np.array([0.5, 0.9, 0.9, 0.2])
    assert choose(scores, boxes, LEFT) == 0
    assert choose(np.array([0.1, 0.9, 0.9, 0.2]), boxes, LEFT) == 2
    assert choose(scores, boxes, (0.0, 0.0, 100.0, 100.0)) is None
    assert choose(np.zeros(0), np.zeros((0, 4)), LEFT) is None
