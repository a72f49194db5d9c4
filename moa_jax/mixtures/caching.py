"""A fast device that holds few experts, beside a slow one that holds all: who computes, who stays.

A simulation on recorded routing, in numpy. No expert is computed here and no weight moves: times
follow from three measured or assumed numbers. A moment is one layer of experts at one step.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from moa_jax.errors import InputError


def recorded(
    routing: Mapping[str, Float[np.ndarray, "steps B _ _"]], skip_below: float = 0.0
) -> tuple[Int[np.ndarray, "N E"], Float[np.ndarray, "N E"]]:
    """Read a MoA's drawing as moments: its layers, one after the other, at every step.

    The experts are the personalized ones of the layers. One is wanted where sparse routing would
    compute it, see `moa_jax.method.sparse`.

    Args:
        routing: the personalized weight by layer, in the order of the layers.
        skip_below: an expert whose mean weight over all pixels is not above it is left out.

    Returns:
        By moment and expert: how many pixels want it, those with a weight above `skip_below`; and
        the mean weight. It is NaN where the moment is another layer's.
    """
    layers = list(routing.values())
    steps, experts = len(layers[0]), len(layers)
    loads = np.zeros((steps, experts, experts), int)
    scores = np.full(loads.shape, np.nan)
    for place, weights in enumerate(layers):
        flat = weights.reshape(steps, -1)
        scores[:, place, place] = flat.mean(axis=1)
        wanted = np.sum(flat > skip_below, axis=1)
        loads[:, place, place] = np.where(flat.mean(axis=1) > skip_below, wanted, 0)
    return loads.reshape(-1, experts), scores.reshape(-1, experts)


def last_used(loads: Int[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """Value an expert by the moment of its last use: LRU drops the least."""
    moments = np.arange(len(loads))[:, None]
    return np.maximum.accumulate(np.where(loads > 0, moments, -1), axis=0).astype(float)


def often_used(loads: Int[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """Value an expert by the number of its uses so far: LFU drops the least."""
    return np.cumsum(loads > 0, axis=0).astype(float)


def used_soon(loads: Int[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """Value an expert by its next use, which nobody knows in advance: the best that can be."""
    worth, coming = np.empty(loads.shape), np.full(loads.shape[1], np.inf)
    for moment in reversed(range(len(loads))):
        worth[moment] = -coming
        coming[loads[moment] > 0] = moment
    return worth


def recent_scores(
    scores: Float[np.ndarray, "N E"], share: float, top: int
) -> Float[np.ndarray, "N E"]:
    """Value an expert by the router's recent scores, those of experts that were not chosen too.

    Args:
        scores: by moment; NaN where the router of another layer has spoken.
        share: of the newest score in the average, in (0, 1].
        top: scores of a moment that count; the lower ones count as zero.
    """
    worth, average = np.empty(scores.shape), np.zeros(scores.shape[1])
    for moment, score in enumerate(scores):
        least = np.sort(score[~np.isnan(score)])[-top:][0]
        newest = np.where(score >= least, score, 0.0)
        average = np.where(np.isnan(score), average, share * newest + (1 - share) * average)
        worth[moment] = average
    return worth


def admit(
    cached: Bool[np.ndarray, " E"],
    coming: Iterable[int],
    kept: Bool[np.ndarray, " E"],
    worth: Float[np.ndarray, " E"],
    capacity: int,
) -> None:
    """Let experts in; each takes the place of the least worthy one, if there is no free place.

    Args:
        cached: is changed.
        kept: the experts that may not be dropped.
    """
    for expert in coming:
        if cached.sum() >= capacity:
            victims = np.flatnonzero(cached & ~kept)
            if not len(victims):
                return
            cached[victims[np.argmin(worth[victims])]] = False
        cached[expert] = True


def misses(loads: Int[np.ndarray, "N E"], worth: Float[np.ndarray, "N E"], capacity: int) -> int:
    """Count how often an expert is wanted that is not there, if all that are wanted are let in."""
    cached, count = np.zeros(loads.shape[1], bool), 0
    for load, value in zip(loads, worth, strict=True):
        missing = np.flatnonzero((load > 0) & ~cached)
        count += len(missing)
        admit(cached, missing.tolist(), load > 0, value, capacity)
    return count


class Schedule(NamedTuple):
    """Who computes what in a moment.

    Attributes:
        time: until all is computed.
        brought: the experts that come over the bus, in this order.
    """

    time: float
    brought: tuple[int, ...]


class Replay(NamedTuple):
    """What a sequence of moments took: the time, the experts missed, and those brought early."""

    time: float
    missed: int
    early: int


@dataclass(frozen=True)
class TwoDevices:
    """A fast device with few experts, a slow one with all, and the bus between them.

    Attributes:
        gpu: time of an expert on the fast device.
        cpu: time of a token on the slow device.
        bus: time to bring an expert.
    """

    gpu: float = 1.0
    cpu: float = 1.0
    bus: float = 4.0

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        if min(self.gpu, self.cpu, self.bus) < 0:
            raise InputError(f"{self}: gpu, cpu and bus must be times, at least 0")

    def schedule(self, load: Int[np.ndarray, " E"], cached: Bool[np.ndarray, " E"]) -> Schedule:
        """Share a moment's experts out; the fastest way, of as many few brought as possible."""
        here = np.sort(load[(load > 0) & cached])
        away = np.flatnonzero((load > 0) & ~cached)
        away = away[np.argsort(-load[away], kind="stable")]
        tried = []
        for bring in range(len(away) + 1):
            for steal in range(len(here) + 1):
                slow = self.cpu * (load[away[bring:]].sum() + here[:steal].sum())
                fast = self.gpu * (len(here) - steal)
                for number in range(1, bring + 1):
                    fast = max(fast, number * self.bus) + self.gpu
                tried.append((max(slow, fast), bring))
        time, bring = min(tried)
        return Schedule(float(time), tuple(int(expert) for expert in away[:bring]))

    def most_useful(
        self, load: Int[np.ndarray, " E"], cached: Bool[np.ndarray, " E"]
    ) -> int | None:
        """Find the absent expert that would shorten a moment most; None if none would."""
        before, gains = self.schedule(load, cached).time, {}
        for expert in np.flatnonzero((load > 0) & ~cached):
            there = cached.copy()
            there[expert] = True
            gains[int(expert)] = before - self.schedule(load, there).time
        best = max(gains, key=lambda expert: gains[expert], default=None)
        return best if best is not None and gains[best] > 0 else None


@dataclass(frozen=True)
class HybriMoe(TwoDevices):
    """Missing experts are brought, or computed where they are; the router's scores say who stays.

    The fast device needs one time for any expert that it has; the slow one needs time for each
    token; the bus brings one expert after the other. The largest loads are brought, the smallest
    are left to the slow device, which also takes over the smallest of those that are here. How many
    of each is tried out. While the bus is idle, it brings what is expected to shorten the next
    moment most. In one drawing of the toy world, with 92 uses of 10 experts and room for 5, these
    scores missed 47 times, LRU 82, LFU 75, and who knows the future 40.

    Equation: time = min over b brought and s taken over of max(cpu * (the other loads + s smallest
        here), end of the fast device), where the j-th arrives at j * bus;
        S <- share TopP(score) + (1 - share) S, and the least S is dropped.
    Source: HybriMoE, from its code: scheduling, prefetching by gain, cache by recent scores; what
        the two devices take, as generally known.
    Left out: real devices, for this is a simulation; their greedy simulation of three queues, as
        trying all splits is exact here; prediction by the next layer's router on this layer's
        features: give `replay` what you expect, such as the step before.

    Attributes:
        capacity: experts that the fast device holds.
        share: of the newest score in the average, in (0, 1].
        top: scores of a moment that count.
    """

    capacity: int = 4
    share: float = 0.3
    top: int = 4

    def __post_init__(self) -> None:
        """Refuse a device that holds nothing."""
        super().__post_init__()
        if self.capacity < 1 or self.top < 1 or not 0 < self.share <= 1:
            raise InputError(f"{self}: capacity and top must be 1 or more, share in (0, 1]")

    def replay(
        self,
        loads: Int[np.ndarray, "N E"],
        scores: Float[np.ndarray, "N E"],
        expected: Int[np.ndarray, "N E"] | None = None,
    ) -> Replay:
        """Simulate a sequence of moments, with nothing cached at first.

        Args:
            loads: tokens that want each expert.
            scores: the router's, see `recent_scores`.
            expected: the loads as the moment before expects them; None brings nothing early.
        """
        worth = recent_scores(scores, self.share, self.top)
        cached, total, missed, early = np.zeros(loads.shape[1], bool), 0.0, 0, 0
        for moment, load in enumerate(loads):
            missed += int(np.sum((load > 0) & ~cached))
            now = self.schedule(load, cached)
            total += now.time
            admit(cached, now.brought, load > 0, worth[moment], self.capacity)
            if expected is None or moment + 1 == len(loads):
                continue
            idle = now.time - len(now.brought) * self.bus
            while idle >= self.bus:
                best = self.most_useful(expected[moment + 1], cached)
                if best is None:
                    break
                admit(cached, [best], expected[moment + 1] > 0, worth[moment], self.capacity)
                if not cached[best]:  # all that is here is expected too
                    break
                early, idle = early + 1, idle - self.bus
        return Replay(total, missed, early)
