"""Draw the study with less and less of the personalized expert, and measure what changes.

People, scenes and noises are those of the study on the toy world. What is drawn already is not
drawn again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moa_jax.cli import Bar
from moa_jax.errors import InputError
from moa_jax.evaluation.statistics import Estimate, estimate
from moa_jax.evaluation.toy.drawing import BATCH, Pictures, draw_batch
from moa_jax.evaluation.toy.metrics import find, mean
from moa_jax.evaluation.toy.protocol import Trial
from moa_jax.evaluation.toy.study import Study
from moa_jax.toyworld.readers.reading import Reading, agreement

# Capacity and the weight to skip below: the first is exact.
LADDER = (
    *((capacity, 0.0) for capacity in (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)),
    *((1.0, below) for below in (0.05, 0.1, 0.2)),
    *((0.5, 0.1), (0.375, 0.1), (0.25, 0.1), (0.375, 0.2)),
)


@dataclass(frozen=True)
class Rung:
    """What was found at one capacity and threshold.

    Attributes:
        pixels: share of the expert's pixels that were computed, over layers and steps.
        layers: share of the layers, over the steps, that computed the expert for a picture.
        changed: mean absolute difference from the whole expert's pictures, in grey levels.
        identity: by how much the share of agreeing attributes changed.
        numbers: the study's.
    """

    capacity: float
    skip_below: float
    pixels: float
    layers: float
    changed: float
    identity: Estimate
    numbers: Mapping[str, float]


def climb(
    study: Study, weights: Path, runs: Path, rungs: Sequence[tuple[float, float]]
) -> list[Rung]:
    """Draw and measure all rungs; the first is what the others are compared with.

    Args:
        runs: where pictures and numbers are kept.

    Raises:
        InputError: the pictures of a rung are gone, or its values are out of range.
    """
    found: list[Rung] = []
    whole: tuple[Pictures, list[Reading]] | None = None
    for capacity, below in rungs:
        settings = {"capacity": capacity, "skip_below": below} if found else {}
        cache = runs / f"capacity-{capacity:g}-skip-{below:g}"
        with Bar(f"drawing: capacity {capacity:g}, skipping below {below:g}") as bar:
            numbers = study.row(weights, cache, bar.show, **settings)
        pictures = study.pictures(cache)
        if pictures is None:
            raise InputError(f"--runs: {str(cache)!r} has lost its pictures: delete it")
        readings = study.readers.read(pictures)
        whole = whole or (pictures, readings)
        pixels, layers = taking_part(study, weights, settings)
        changed = mean(np.abs(whole[0].astype(float) - pictures).mean(axis=(1, 2, 3)))
        identity = change(study.trials, readings, whole[1])
        found.append(Rung(capacity, below, pixels, layers, changed, identity, numbers))
    return found


def taking_part(study: Study, weights: Path, settings: Mapping[str, Any]) -> tuple[float, float]:
    """Give the shares of pixels and of layers that compute the expert, from one batch of trials."""
    trials = [study.trials[i] for i in study.alone][:BATCH]
    result = draw_batch(study.pipeline(weights), trials, study.protocol, **settings)
    maps = [layer > 0 for layer in result.routing.values()]  # each: steps, pictures, h, w
    layers = mean(layer.any(axis=(2, 3)).mean() for layer in maps)
    return sum(layer.sum() for layer in maps) / sum(layer.size for layer in maps), layers


def change(
    trials: Sequence[Trial], readings: Sequence[Reading], whole: Sequence[Reading]
) -> Estimate:
    """Compare how many attributes agree with the reference, person by person."""
    shares: dict[str, list[float]] = {}
    for trial, *read in zip(trials, readings, whole, strict=True):
        for i, look in enumerate(trial.people):
            sparse, dense = (mean(agreement(find(r, trial)[i], look).values()) for r in read)
            shares.setdefault(str(look), []).append(sparse - dense)
    return estimate({(person,): mean(each) for person, each in shares.items()})
