"""What the study draws: which held-out people, in which contexts, and from which noise.

Pictures that differ only in the person start from the same noise, so that what changes with the
person can be seen. References are portraits, which no scene contains. No network is run here.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import UInt8

from moa_jax.data.captions import IMAGE_MARKER
from moa_jax.toyworld.world.people import WORDS, Look, draw_look
from moa_jax.toyworld.world.places import Context, draw_context
from moa_jax.toyworld.world.scenes import Scene, render, render_portrait


@dataclass(frozen=True)
class Protocol:
    """How many pictures, and how they are drawn.

    Attributes:
        seed: of people, contexts and noise; not 0, which is the training data's.
        identities: number of people for each word; each is drawn in every context of the word.
        contexts: number of contexts for each word.
        noises: number of pictures of one person in one context.
        pairs: number of pairs of people with different words; each pair has its own context.
        pair_noises: number of pictures of one pair.
        renders: number of renders that the readers are examined on.
        steps: number of DDIM's steps.
        guidance_scale: also used for the prior. From 3 on, colours of people overshoot.
    """

    seed: int = 7
    identities: int = 4
    contexts: int = 6
    noises: int = 3
    pairs: int = 30
    pair_noises: int = 2
    renders: int = 1000
    steps: int = 25
    guidance_scale: float = 2.5


@dataclass(frozen=True)
class Trial:
    """One picture to draw.

    Attributes:
        people: one or two, in the caption's order.
        noise: number of the noise; trials with the same number start from the same noise.
    """

    people: tuple[Look, ...]
    context: Context
    noise: int

    @property
    def scene(self) -> Scene:
        """The scene that the renderer would draw."""
        return Scene(self.people, self.context, self.noise)

    @property
    def caption(self) -> str:
        """The prompt of the prior."""
        return self.scene.caption

    @property
    def prompt(self) -> str:
        """The caption with a marker after the word of each person."""
        caption = self.caption
        for look in self.people:
            caption = caption.replace(f"a {look.word} ", f"a {look.word} {IMAGE_MARKER} ", 1)
        return caption


def make_trials(protocol: Protocol) -> list[Trial]:
    """List the trials of a row: people alone, by word, context and noise; then pairs."""
    random = np.random.default_rng([protocol.seed, 1])  # stream 2 is for `strangers`
    trials, noise = [], 0
    for word in WORDS:
        looks = [draw_look(random, word) for _ in range(protocol.identities)]
        for _ in range(protocol.contexts):
            context = draw_context(random)
            for _ in range(protocol.noises):
                # One noise for all: the trials differ in the person alone.
                trials += [Trial((look,), context, noise) for look in looks]
                noise += 1
    words = list(combinations(WORDS, 2))
    for number in range(protocol.pairs):
        # Which of the two the caption names first is left to chance.
        pair = random.permutation(words[number % len(words)])
        people = tuple(draw_look(random, str(word)) for word in pair)
        context = draw_context(random)
        for _ in range(protocol.pair_noises):
            trials.append(Trial(people, context, noise))
            noise += 1
    return trials


def strangers(trials: Iterable[Trial], protocol: Protocol) -> list[Trial]:
    """Replace the people of each trial by others of the same words: the floor of identity."""
    random = np.random.default_rng([protocol.seed, 2])
    return [
        replace(trial, people=tuple(draw_look(random, look.word) for look in trial.people))
        for trial in trials
    ]


def redraw(trials: Iterable[Trial], seed: int = 0) -> UInt8[np.ndarray, "n 64 64 3"]:
    """Let the renderer draw the trials.

    Args:
        seed: each seed puts the people elsewhere.
    """
    # Noises are far fewer than 2^20, so scenes of different seeds never share one.
    scenes = [replace(t.scene, seed=int((seed << 20) + t.noise)) for t in trials]
    return np.stack([render(scene)[0] for scene in scenes])


def references(trial: Trial) -> list[UInt8[np.ndarray, "64 64 3"]]:
    """Draw portraits of a trial's people, before a wall that no training picture has."""
    # Walls of training portraits have seeds 0, 4, 8, ...: see `arrays.py`.
    return [render_portrait(look, seed=1 + place) for place, look in enumerate(trial.people)]


def same_noise(trial: Trial) -> Hashable:
    """Group trials that only differ in the person."""
    return trial.noise


def same_scene(trial: Trial) -> Hashable:
    """Group trials that only differ in the noise."""
    return trial.people, trial.context


def pairs_within(trials: list[Trial], group: Callable[[Trial], Hashable]) -> list[tuple[int, int]]:
    """List all pairs of trials within one group, by the places of the two trials."""
    groups: dict[Hashable, list[int]] = {}
    for place, trial in enumerate(trials):
        groups.setdefault(group(trial), []).append(place)
    return [pair for members in groups.values() for pair in combinations(members, 2)]
