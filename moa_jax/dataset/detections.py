"""Choose among the things that a network found: the likely one whose box is that of a subject."""

import numpy as np

from moa_jax.dataset.binding import overlap
from moa_jax.dataset.models import Box

LIKELY = 0.3  # score from which a thing counts as found [ours]
SAME = 0.5  # overlap from which a thing is that of a box [ours]


def choose(scores: np.ndarray, boxes: np.ndarray, box: Box, likely: float = LIKELY) -> int | None:
    """Choose which of several found things is that of a box.

    Args:
        scores: of each thing, in [0, 1].
        boxes: of each thing, x1, y1, x2, y2 in pixels.
        box: that of the subject.
        likely: score that a thing must be above.

    Returns:
        The place of the likely thing whose box overlaps most; None if none does by SAME.
    """
    shares = {
        place: overlap((float(one[0]), float(one[1]), float(one[2]), float(one[3])), box)
        for place, (score, one) in enumerate(zip(scores, boxes, strict=True))
        if score > likely
    }
    best = max(shares, key=lambda place: shares[place], default=None)
    return best if best is not None and shares[best] >= SAME else None
