"""A tiny MoA's parts for the tests of training: random batches, and steps to run on a mesh."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.method.model import MoA
from moa_jax.method.weights import Identity
from moa_jax.training.mesh import place_batch
from moa_jax.training.setup import set_up_moa

BATCH = 8


class Tiny(NamedTuple):
    base: StableDiffusion
    model: MoA
    params: Any
    mask: Any
    schedule: NoiseSchedule
    identity: Identity


class RandomBatches:
    """Batches of noise that depend on the seed and their number alone."""

    def __init__(self, seed=0):
        self.seed, self.place = seed, 0

    def __next__(self):
        self.place += 1
        return random_batch(1000 * self.seed + self.place)

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def random_batch(seed, size=BATCH):
    random = np.random.default_rng(seed)
    masks = np.zeros((size, 2, 64, 64), np.uint8)
    present = np.zeros((size, 2), bool)
    tokens = np.full((size, 2), 77, np.int32)
    for picture in range(size):
        for subject in range(picture % 3):  # none, one or two subjects
            top, left = random.integers(0, 40, 2)
            masks[picture, subject, top : top + 24, left : left + 24] = 1
            present[picture, subject] = True
            tokens[picture, subject] = 2 + 3 * subject
    return {
        "image": random.integers(0, 256, (size, 64, 64, 3), np.uint8),
        "masks": masks,
        "subject_images": random.integers(0, 256, (size, 2, 32, 32, 3), np.uint8),
        "subject_tokens": tokens,
        "subject_present": present,
        "input_ids": random.integers(0, 40, (size, 77)).astype(np.int32),
    }


class Placing:
    """A step that places its batch as the loop does: else jax compiles it twice, for both kinds."""

    def __init__(self, step, mesh):
        self.step, self.mesh = step, mesh

    def __call__(self, state, frozen, batch):
        return self.step(state, frozen, self._placed(batch))

    def lower(self, state, frozen, batch):
        return self.step.lower(state, frozen, self._placed(batch))

    def _placed(self, batch):
        placed = all(isinstance(array, jax.Array) for array in batch.values())
        return batch if placed else place_batch(self.mesh, batch)


class Run(NamedTuple):
    """A step on a mesh, and how to start from the beginning."""

    step: Placing
    start: Any  # () -> (state, frozen)


def make_run(tiny, config, mesh, optimizer=None, mask=None) -> Run:
    mask = tiny.mask if mask is None else mask
    set_up = partial(
        set_up_moa, tiny.model, tiny.schedule, tiny.params, mask, config, mesh, optimizer
    )
    return Run(Placing(set_up().step, mesh), lambda: set_up()[:2])


def gradient_run(tiny, config, mesh, mask=None, **optimizer) -> Run:
    """A step whose optimizer state is the gradient: Adam's update would hide its scale."""
    changed = dataclasses.replace(config.optimizer, ema_decay=None, **optimizer)
    config = dataclasses.replace(config, optimizer=changed)
    return make_run(tiny, config, mesh, optax.trace(0.0), mask)


def gradient_of(run, batch):
    """(gradient, metrics) of one step of a `gradient_run`."""
    after, metrics = run.step(*run.start(), batch)
    return jax.device_get(after.optimizer.trace), jax.device_get(metrics)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))]


def relative_error(tree, reference):
    """Norm of the difference of two trees over the norm of the second."""
    pairs = list(zip(leaves(tree), leaves(reference), strict=True))
    off = sum(np.sum(np.square(one - other, dtype=np.float64)) for one, other in pairs)
    return (off / sum(np.sum(np.square(other, dtype=np.float64)) for _, other in pairs)) ** 0.5
