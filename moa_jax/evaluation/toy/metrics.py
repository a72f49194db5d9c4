"""Measures of pictures, and of what the readers say about them: pure functions.

Scores are shares in [0, 1]; differences of pixels are in grey levels, of 255. A person who is not
there agrees with nobody.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from moa_jax.evaluation.toy.protocol import Trial
from moa_jax.toyworld.readers.reading import (
    ATTRIBUTES,
    CONTEXT,
    PersonReading,
    Reading,
    agreement,
    applies,
    same,
)
from moa_jax.toyworld.world.people import Look

Picture = UInt8[np.ndarray, "H W 3"]
Pictures = UInt8[np.ndarray, "n H W 3"]
Mask = Bool[np.ndarray, "H W"]

MARGIN = 2  # pixels around people that are not background: edges are soft


def find(reading: Reading, trial: Trial) -> list[PersonReading | None]:
    """Find the people of a trial by their words; None means that nobody has the word.

    If one person alone is asked for and nobody has the word, the largest person is taken.
    """
    by_size = sorted(reading.people, key=lambda person: person.mask.sum())
    by_word = {person.word: person for person in by_size}  # the largest of a word
    found = [by_word.get(look.word) for look in trial.people]
    if len(found) == 1 and found[0] is None and by_size:
        return [by_size[-1]]
    return found


def identity(readings: Iterable[Reading], trials: Iterable[Trial]) -> dict[str, float]:
    """Measure how many attributes of the people agree with the ones asked for.

    Returns:
        "overall": over all people, the mean share of attributes that agree, among those that apply.
        Each attribute by its name: the share of people who agree in it, where it applies.
    """
    people = [
        agreement(person, look)
        for reading, trial in zip(readings, trials, strict=True)
        for person, look in zip(find(reading, trial), trial.people, strict=True)
    ]
    shares = {"overall": mean(mean(agreed.values()) for agreed in people)}
    for name in ATTRIBUTES:
        shares[name] = mean(agreed[name] for agreed in people if name in agreed)
    return shares


def prompt_consistency(readings: Iterable[Reading], trials: Iterable[Trial]) -> dict[str, float]:
    """Measure how much of what the words ask for is there.

    Returns:
        "overall", the mean of the others: each field of the context, "word" (every person asked
        for is there) and "count" (no more and no fewer people).
    """
    pairs = list(zip(readings, trials, strict=True))
    shares = {
        field: mean(r.context[field] == getattr(t.context, field) for r, t in pairs)
        for field in CONTEXT
    }
    shares["word"] = mean(
        {look.word for look in t.people} <= {person.word for person in r.people} for r, t in pairs
    )
    shares["count"] = mean(len(r.people) == len(t.people) for r, t in pairs)
    return {"overall": mean(shares.values()), **shares}


def background_change(one: Picture, other: Picture, people: Mask) -> float:
    """Average the absolute difference of two pictures where neither shows people.

    Args:
        people: the people of both pictures together, with a margin around them.
    """
    difference = np.abs(one.astype(np.float32) - other.astype(np.float32)).mean(axis=-1)
    return float(difference[~people].mean()) if not people.all() else 0.0


def grow(mask: Mask, pixels: int = MARGIN) -> Mask:
    """Extend a mask by some pixels in every direction."""
    padded = np.pad(mask, pixels)
    height, width = mask.shape
    steps = range(2 * pixels + 1)
    moved = [padded[y : y + height, x : x + width] for y in steps for x in steps]
    return np.any(moved, axis=0)


def layout_change(one: Mask, other: Mask) -> float:
    """Measure how far people moved or changed their outline: 1 - IoU."""
    union = (one | other).sum()
    return float(1 - (one & other).sum() / union) if union else 0.0


def changes(
    pictures: Pictures,
    readings: Sequence[Reading],
    pairs: Iterable[tuple[int, int]],
    others: tuple[Pictures, Sequence[Reading]] | None = None,
) -> dict[str, float]:
    """Average the change of background, layout and entire picture over pairs of pictures.

    Args:
        pairs: places of the two pictures.
        others: pictures and readings that hold the second of each pair; by default the first ones.
    """
    second_pictures, second_readings = others or (pictures, readings)
    found: dict[str, list[float]] = {"background": [], "layout": [], "pixels": []}
    for i, j in pairs:
        one, other = readings[i].mask, second_readings[j].mask
        around = grow(one | other)
        found["background"].append(background_change(pictures[i], second_pictures[j], around))
        found["layout"].append(layout_change(one, other))
        # With nobody left out, the entire picture is compared.
        nobody = np.zeros_like(one)
        found["pixels"].append(background_change(pictures[i], second_pictures[j], nobody))
    return {name: mean(values) for name, values in found.items()}


def binding(readings: Iterable[Reading], trials: Iterable[Trial]) -> dict[str, float]:
    """Measure whether each of two references lands on the right person.

    Returns:
        "binding": the share of people who agree better with their own reference than with the
        other's. A tie counts half, and a person who is not there counts nothing. "own" and
        "other": among the attributes in which the two references differ, the share that agrees
        with the person's own and with the other's.
    """
    wins, own, other = [], [], []
    for reading, trial in zip(readings, trials, strict=True):
        names = differing(*trial.people)
        for person, look, stranger in zip(
            find(reading, trial), trial.people, trial.people[::-1], strict=True
        ):
            mine, theirs = (
                [
                    person is not None and same(name, person.attributes[name], getattr(who, name))
                    for name in names
                ]
                for who in (look, stranger)
            )
            # A win counts 1, a tie 0.5, a loss 0.
            tie = 0.0 if person is None else 0.5
            wins.append(tie * (1 + np.sign(sum(mine) - sum(theirs))))
            own += mine
            other += theirs
    return {"binding": mean(wins), "own": mean(own), "other": mean(other)}


def differing(look: Look, other: Look) -> list[str]:
    """List the attributes that can be judged in both people and tell them apart."""
    return [
        name
        for name in ATTRIBUTES
        if applies(name, look)
        and applies(name, other)
        and not same(name, getattr(look, name), getattr(other, name))
    ]


def way(value: float, floor: float, ceiling: float) -> float:
    """Give how far a value is on the way from floor (0) to ceiling (1)."""
    return (value - floor) / (ceiling - floor)


def frechet_distance(one: Float[np.ndarray, "n F"], other: Float[np.ndarray, "m F"]) -> float:
    """Measure the distance of two sets of features as if both were Gaussian.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (1706.08500), with the
    scene reader's features in place of Inception's.
    """
    one, other = one.astype(np.float64), other.astype(np.float64)
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # The trace of the square root of both covariances' product, by symmetric matrices alone.
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    shift = np.sum((one.mean(axis=0) - other.mean(axis=0)) ** 2)
    return float(shift + np.trace(first) + np.trace(second) - 2 * cross)


def mean(values: Iterable[float | bool]) -> float:
    """Average some values; not a number if there are none."""
    values = list(values)
    return float(np.mean(values)) if values else float("nan")
