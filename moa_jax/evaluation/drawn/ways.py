"""Ways to draw with trained weights, and what each changes on the study's trials.

A way is another variant of the method, which adds no weights, or other settings of the pipeline.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moa_jax.cli import Bar
from moa_jax.config import override
from moa_jax.errors import InputError
from moa_jax.evaluation.sparse.rungs import change
from moa_jax.evaluation.statistics import Estimate
from moa_jax.evaluation.toy.metrics import mean
from moa_jax.evaluation.toy.study import Study
from moa_jax.method.weights import CARD_NAME, read_moa_card, read_weights, save_moa
from moa_jax.sampling.settings import Strength

COARSE = ("down_blocks.1", "mid_block", "up_blocks.0")  # of the toy world's U-Net


@dataclass(frozen=True)
class Way:
    """A way to draw.

    Attributes:
        name: of its folder.
        title: the name that people read.
        mixture: the variant, as `method.mixture` takes it; "" is the one that was trained.
        settings: of the pipeline; see `Settings`.
    """

    name: str
    title: str
    mixture: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a way changes.

    Attributes:
        changed: mean absolute difference from the pictures of the first way, in grey levels.
        identity: by how much the share of agreeing attributes differs from the first way's.
        numbers: the study's.
    """

    title: str
    changed: float
    identity: Estimate
    numbers: Mapping[str, float]


def _contrast(beta: float) -> Way:
    mixture = f"moa_jax.mixtures.guidance:SelfContrast(beta={beta})"
    return Way(f"contrast-{beta:g}", f"SCMoE: away from the prior, β = {beta:g}", mixture)


def _strength(name: str, title: str, *strengths: Strength) -> Way:
    return Way(name, title, settings={"moa_strength": strengths})


def _off_first(share: float) -> Way:
    title = f"expert off in the first {100 * share:.0f} % of the steps"
    return _strength(f"off-first-{share:g}", title, Strength(1.0), Strength(0.0, end=share))


def _blocks(threshold: float) -> Way:
    mixture = f"moa_jax.mixtures.blocks:BlockAttention(threshold={threshold})"
    title = f"VMoBA: {100 * threshold:.0f} % of the expert's similarity to blocks"
    return Way(f"blocks-{threshold:g}", title, mixture)


WAYS = (
    Way("as-trained", "MoA as trained"),
    *(_contrast(beta) for beta in (0.25, 0.5, 1.0)),
    _strength("stronger", "personalized weight times 1.5", Strength(1.5)),
    *(_off_first(share) for share in (0.2, 0.33, 0.4, 0.5)),
    _strength(
        "off-first-0.4-stronger",
        "expert off in the first 40 % of the steps, then times 1.5",
        Strength(1.5),
        Strength(0.0, end=0.4),
    ),
    Way(
        "delay-0.33",
        "FastComposer: no subject in the first 33 % of the steps",
        settings={"delay": 0.33},
    ),
    _strength(
        "off-last-0.33",
        "expert off in the last 33 % of the steps",
        Strength(1.0),
        Strength(0.0, start=0.67),
    ),
    *(_blocks(threshold) for threshold in (0.5, 0.25)),
    _strength(
        "off-coarse",
        "expert off in the coarse blocks",
        Strength(1.0),
        *(Strength(0.0, layers) for layers in COARSE),
    ),
)


def redrawn(weights: Path, mixture: str, folder: Path) -> Path:
    """Give weights as another variant would have left them.

    Args:
        weights: the folder of `moa.safetensors`; with `mixture` "" it is returned as it is.
        folder: where the weights are written, beside a card that names the variant.

    Raises:
        InputError: there is no such variant.
    """
    if not mixture:
        return weights
    card = read_moa_card(weights)
    config = override(card.config, [f"method.mixture={mixture}"])
    card = dataclasses.replace(card, config=config)
    # Written once: the same weights make another file each time, which would be drawn anew.
    if not (folder / CARD_NAME).is_file() or read_moa_card(folder) != card:
        save_moa(folder, read_weights(weights), card)
    return folder


def compare(study: Study, weights: Path, runs: Path, ways: Sequence[Way]) -> list[Found]:
    """Draw and measure all ways; the first is what the others are compared with.

    Args:
        weights: a folder of trained MoA weights.
        runs: where pictures and numbers are kept.

    Raises:
        InputError: the pictures of a way are gone, or its variant needs weights of its own.
    """
    found, first = [], None
    for way in ways:
        cache = runs / way.name
        drawn_with = redrawn(weights, way.mixture, cache)
        with Bar(f"drawing: {way.title}") as bar:
            numbers = study.row(drawn_with, cache, bar.show, **way.settings)
        pictures = study.pictures(cache)
        if pictures is None:
            raise InputError(f"--runs: {str(cache)!r} has lost its pictures: delete it")
        readings = study.readers.read(pictures)
        first = first or (pictures, readings)
        changed = mean(np.abs(first[0].astype(float) - pictures).mean(axis=(1, 2, 3)))
        identity = change(study.trials, readings, first[1])
        found.append(Found(way.title, changed, identity, numbers))
    return found
