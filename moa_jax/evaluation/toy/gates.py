"""What each network of the toy world must reach before another is built on it: numbers and bars.

The readers, the autoencoder and the image encoder are here; the prior is in `prior_gates`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Num

from moa_jax.backbone.clip import normalize_pixels
from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.cli import track
from moa_jax.evaluation.toy import metrics
from moa_jax.evaluation.toy.drawing import through_vae
from moa_jax.evaluation.toy.protocol import Trial, redraw
from moa_jax.sampling.photo import psnr
from moa_jax.toyworld.readers.reading import ATTRIBUTES, Readers, applies, same
from moa_jax.toyworld.readers.training import reader_accuracy
from moa_jax.toyworld.world.people import COLORS, KINDS, WORDS, Look, draw_look
from moa_jax.toyworld.world.places import draw_context
from moa_jax.toyworld.world.scenes import render, render_portrait

SEED = 13  # of people, contexts and noise; nothing was trained on it
BATCH = 32  # pictures a call
PROBE = 2_000  # portraits that the linear probe is fitted to
RIDGE = 1e-3  # penalty of the probe, as a share of the features' mean square
SCALE = 64  # pixels a side, at which a background's change is measured


@dataclass(frozen=True)
class Gate:
    """A number and its bar.

    Attributes:
        part: the network.
        bar: the least value that is allowed; with `most`, the most.
        percent: whether value and bar are shares, which are shown in percent.
    """

    part: str
    name: str
    value: float
    bar: float
    most: bool = False
    percent: bool = True

    @property
    def passed(self) -> bool:
        """Whether the number is on the right side of its bar."""
        return self.value <= self.bar if self.most else self.value >= self.bar


def reader_gates(readers: Readers, count: int) -> list[Gate]:
    """Examine the readers on held-out renders; the IoU of their masks has no bar."""
    found = reader_accuracy(readers, count, SEED)
    return [Gate("readers", name, value, 0.97) for name, value in found.items() if name != "mask"]


def held_out(stream: int, count: int) -> list[Trial]:
    """Draw trials of one person; the words take turns, and each trial has a context of its own.

    Args:
        stream: number of the random stream; each stream has other people.
    """
    random = np.random.default_rng([SEED, stream])
    return [
        Trial((draw_look(random, WORDS[i % len(WORDS)]),), draw_context(random), i)
        for i in range(count)
    ]


def autoencoder_gates(base: StableDiffusion, readers: Readers, count: int) -> list[Gate]:
    """Measure what the autoencoder keeps of renders: their pixels, and who is on them.

    The background is compared in pairs of scenes that differ in the person alone. What the
    autoencoder carries from a person into the background is the least change any method can reach.
    """
    trials, random = held_out(1, count), np.random.default_rng([SEED, 2])
    others = [replace(t, people=(draw_look(random, t.people[0].word),)) for t in trials]
    renders, other_renders = redraw(trials), redraw(others)
    seen, other_seen = through_vae(base, renders), through_vae(base, other_renders)
    # The ceiling is the renders themselves; the floor, other people in the same scenes.
    ceiling, found, floor = (
        metrics.identity(readers.read(pictures), trials)["overall"]
        for pictures in (renders, seen, other_renders)
    )
    background = [
        metrics.background_change(reduce(one), reduce(other), reduced_mask(*pair))
        for one, other, *pair in zip(seen, other_seen, trials, others, strict=True)
    ]
    decibels = metrics.mean(map(psnr, seen, renders))
    return [
        Gate("autoencoder", "PSNR, dB", decibels, 28, percent=False),
        Gate("autoencoder", "identity, of the way", metrics.way(found, floor, ceiling), 0.97),
        Gate(
            "autoencoder",
            "background changed by a person, grey levels",
            metrics.mean(background),
            1.0,
            most=True,
            percent=False,
        ),
    ]


def reduced_mask(one: Trial, other: Trial) -> Bool[np.ndarray, "h w"]:
    """Mark where either trial's render shows people or their edges, at SCALE pixels a side."""
    first, second = (render(trial.scene)[1].any(axis=0) for trial in (one, other))
    return reduce(metrics.grow(first | second)[..., None])[..., 0] > 0


def reduce(picture: Num[np.ndarray, "H W C"]) -> Float[np.ndarray, "h w C"]:
    """Average blocks of pixels, down to SCALE pixels a side."""
    times = len(picture) // SCALE
    blocks = picture.reshape(SCALE, times, SCALE, times, -1).astype(np.float32)
    return blocks.mean(axis=(1, 3))


def encoder_gates(base: StableDiffusion, count: int) -> list[Gate]:
    """Measure how well a linear probe reads each attribute from the features of portraits."""
    looks = [trial.people[0] for trial in held_out(3, PROBE + count)]
    features = portrait_features(base, looks)
    train, test = features[:PROBE], features[PROBE:]
    people, shown = looks[:PROBE], looks[PROBE:]
    gates = []
    for name in ATTRIBUTES:
        fitted = [applies(name, look) for look in people]
        values = targets(name, [look for look in people if applies(name, look)])
        read = probe(train[fitted], values, test)
        right = [
            same(name, value_of(name, said), getattr(look, name))
            for said, look in zip(read, shown, strict=True)
            if applies(name, look)
        ]
        gates.append(Gate("image encoder", name, metrics.mean(right), 0.90))
    return gates


def portrait_features(base: StableDiffusion, looks: Sequence[Look]) -> Float[np.ndarray, "n F"]:
    """Encode a portrait of each person."""
    tower = base.image_encoder
    encode = jax.jit(lambda params, x: tower.module.apply({"params": params}, normalize_pixels(x)))
    features = []
    for first in track(range(0, len(looks), BATCH), "encoding portraits"):
        part = [
            render_portrait(look, first + i) for i, look in enumerate(looks[first : first + BATCH])
        ]
        # Batches of one size share one compiled program.
        padded = np.stack(part + part[-1:] * (BATCH - len(part)))
        features.append(np.asarray(encode(tower.params, padded))[: len(part)])
    return np.concatenate(features)


def targets(name: str, looks: Sequence[Look]) -> Float[np.ndarray, "n k"]:
    """Write an attribute as numbers: a colour as RGB, a kind as a 1 at the place of its value."""
    if name in COLORS:
        return np.array([getattr(look, name) for look in looks])
    return np.array(
        [[getattr(look, name) == value for value in KINDS[name]] for look in looks], float
    )


def value_of(name: str, numbers: np.ndarray) -> Any:
    """Read an attribute's value from numbers like those of `targets`."""
    return tuple(numbers) if name in COLORS else KINDS[name][int(np.argmax(numbers))]


def probe(features: np.ndarray, values: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Fit a ridge regression and apply it to unseen features."""
    middle, offset = features.mean(axis=0), values.mean(axis=0)
    centred = (features - middle).astype(np.float64)
    gram = centred.T @ centred
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, centred.T @ (values - offset))
    return (unseen - middle) @ weights + offset


def gate_rows(gates: Sequence[Gate]) -> list[tuple[str, ...]]:
    """Write gates as lines of a table: part, what, found, bar, and "missed" or nothing."""
    rows = []
    for gate in gates:
        times, unit = (100, " %") if gate.percent else (1, "")
        bar = f"{'at most' if gate.most else 'at least'} {gate.bar * times:.3g}{unit}"
        found = f"{gate.value * times:.1f}{unit}"
        rows.append((gate.part, gate.name, found, bar, "" if gate.passed else "missed"))
    return rows


def gate_page(gates: Sequence[Gate]) -> str:
    """Write gates as a page of Markdown."""
    missed = sum(not gate.passed for gate in gates)
    lines = [
        "# What the toy world's networks can do",
        "",
        "What each network has to do before another is built on it, on people and contexts that no "
        "training saw. Written by `python -m moa_jax.evaluation toy --gates --out FOLDER`.",
        "",
        f"{len(gates) - missed} of {len(gates)} bars are reached.",
        "",
        "| part | what | found | bar | |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in gate_rows(gates)),
    ]
    return "\n".join(lines) + "\n"
