"""Find the same person in two pictures, by the distance of their faces' embeddings.

Two subjects are paired only if each is the other's nearest in that picture, and they are nearer
than a threshold. Nothing is concluded from one pair to the next: if A is paired with B and B with
C, A and C are paired only if they are near enough themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

BLOCK = 1024  # faces that are compared with all at once


@dataclass(frozen=True)
class Pair:
    """Two faces that are taken for one person.

    Attributes:
        one: place of the first face; it is below `other`.
        other: place of the second.
        distance: Euclidean distance of their embeddings, in [0, 2].
    """

    one: int
    other: int
    distance: float


def find_pairs(
    embeddings: Float[np.ndarray, "N D"], pictures: Int[np.ndarray, " N"], below: float
) -> list[Pair]:
    """Find the pairs, the nearest first.

    Args:
        embeddings: of the faces, each of length 1.
        pictures: the number of the picture that each face is in.
        below: distance that two faces of one person must be below.
    """
    nearest: dict[tuple[int, int], tuple[float, int]] = {}  # by face and picture of the other
    for start in range(0, len(embeddings), BLOCK):
        block = embeddings[start : start + BLOCK].astype(np.float64)
        # Of unit vectors: |a - b|² = 2 - 2 a·b.
        apart = np.sqrt(np.clip(2 - 2 * block @ embeddings.T.astype(np.float64), 0, None))
        for row, other in np.argwhere(apart < below):
            one, distance = start + int(row), float(apart[row, other])
            key = (one, int(pictures[other]))
            if pictures[one] != pictures[other]:
                nearest[key] = min(nearest.get(key, (np.inf, -1)), (distance, int(other)))
    pairs = []
    for (one, _), (distance, other) in nearest.items():
        back = nearest.get((other, int(pictures[one])))
        if one < other and back is not None and back[1] == one:
            pairs.append(Pair(one, other, distance))
    return sorted(pairs, key=lambda pair: (pair.distance, pair.one, pair.other))


def references(pairs: Sequence[Pair], most: int) -> dict[int, list[int]]:
    """List the other faces of each face's person, the nearest first.

    Args:
        pairs: the nearest first.
        most: faces that are listed of each.
    """
    found: dict[int, list[int]] = {}
    for pair in pairs:
        for one, other in ((pair.one, pair.other), (pair.other, pair.one)):
            found.setdefault(one, []).append(other)
    return {one: others[:most] for one, others in found.items()}
