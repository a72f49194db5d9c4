"""Who is paired with whom, on embeddings whose distances are known."""

import numpy as np
import pytest

from moa_jax.dataset import pairing
from moa_jax.dataset.pairing import Pair, find_pairs, references


def at(*degrees):
    """Unit vectors of the plane; two that are d degrees apart are 2 sin(d / 2) apart."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def apart(degrees):
    return 2 * np.sin(np.radians(degrees) / 2)


def ends(pairs):
    return {(pair.one, pair.other) for pair in pairs}


def test_faces_are_paired_below_the_threshold_and_never_from_it_on():
    faces, pictures = at(0, 10, 40), np.arange(3)
    found = find_pairs(faces, pictures, apart(25))
    assert ends(found) == {(0, 1)} and found[0].distance == pytest.approx(apart(10), abs=1e-5)
    assert ends(find_pairs(faces, pictures, apart(31))) == {(0, 1), (1, 2)}
    assert ends(find_pairs(faces, pictures, apart(9.9))) == set()


def test_pairs_are_not_handed_on():
    """The middle one is near to both others, which are too far from one another."""
    assert ends(find_pairs(at(0, 20, 40), np.arange(3), apart(30))) == {(0, 1), (1, 2)}


def test_of_one_picture_only_the_nearest_is_taken():
    # Faces 1 and 2 are in one picture: 0 is one person, so it is not both of them.
    found = find_pairs(at(0, 10, 12), np.array([0, 1, 1]), apart(30))
    assert ends(found) == {(0, 1)}
    # And 2 is no pair of 0, even though nobody else is near to it.
    assert ends(find_pairs(at(0, 2, 12), np.array([0, 0, 1]), apart(30))) == {(1, 2)}


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    faces = random.normal(size=(60, 3))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    pictures = random.integers(0, 20, 60)
    found = find_pairs(faces, pictures, 0.6)
    distances = np.linalg.norm(faces[:, None] - faces[None], axis=-1)
    assert found and all(
        pair.distance == pytest.approx(distances[pair.one, pair.other]) for pair in found
    )
    monkeypatch.setattr(pairing, "BLOCK", 7)
    assert ends(find_pairs(faces, pictures, 0.6)) == ends(found)


def test_references_are_the_nearest_ones():
    pairs = [Pair(0, 1, 0.1), Pair(0, 2, 0.2), Pair(0, 3, 0.3)]
    assert references(pairs, 2) == {0: [1, 2], 1: [0], 2: [0], 3: [0]}
