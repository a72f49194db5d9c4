"""How to draw, whatever is drawn: sampler, guidance, and how strongly the subjects take part.

This module turns what a person writes into tables over steps and layers. A row of each table is an
argument of the compiled program, so no setting compiles it anew, except the capacity, and switching
guidance or sparse routing on or off. No network is run here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
from jaxtyping import Float

from moa_jax.diffusion import NoiseSchedule, Sampler, make_sampler, over_steps, sampler_of
from moa_jax.diffusion.guidance import check_range
from moa_jax.errors import InputError
from moa_jax.method.sparse import Sparse

CHECKPOINT = "checkpoint"  # stands for the sampler in the checkpoint's scheduler_config.json


@dataclass(frozen=True)
class Strength:
    """How strongly the personalized expert takes part, in some layers and steps.

    Attributes:
        value: factor of the personalized expert's weight. 0 is exactly Stable Diffusion, 1 is what
            the router chose, and more goes up to the personalized expert alone.
        layers: how the names of the U-Net's layers begin: "down", "mid", "up", "up_blocks.1", ...;
            "" means all layers.
        start: share of the steps after which it begins to act; 0 is before the first step.
        end: share of the steps after which it ceases to act; 1 is after the last step.
    """

    value: float
    layers: str = ""
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a value below 0, and a range of steps that is empty or out of bounds."""
        check_range(self.start, self.end)
        if not 0.0 <= self.value < np.inf:
            raise InputError(f"moa_strength={self.value}: must be 0 (the prior) or more, e.g. 1")


class Steering(NamedTuple):
    """What changes from step to step, as tables over the steps that are taken, noisiest first.

    Attributes:
        guidance_scale: one for each step; None means no guidance, at half the work.
        guidance_rescale: one for each step, see `classifier_free_guidance`; None means no guidance.
        dial: one for each step and transformer block, see `turn`; None means no mixtures.
        controls: the scales of each ControlNet.
        sparse: the same in every step; None computes every expert everywhere.
        subjects: 0 for each step that sees the prompt without its subjects, else 1; None means that
            every step sees them.
    """

    guidance_scale: Float[np.ndarray, " n"] | None = None
    guidance_rescale: Float[np.ndarray, " n"] | None = None
    dial: Float[np.ndarray, "n blocks"] | None = None
    controls: tuple[Float[np.ndarray, " n"], ...] = ()
    sparse: Sparse | None = None
    subjects: Float[np.ndarray, " n"] | None = None

    @property
    def guided(self) -> bool:
        """Whether there is guidance."""
        return self.guidance_scale is not None

    def at(self, step: int) -> "Steered":
        """Return the values of one step that the compiled program takes."""
        rows = (None if table is None else np.float32(table[step]) for table in self[:3])
        controls = tuple(np.float32(scales[step]) for scales in self.controls)
        return Steered(*rows, controls, self.sparse)

    def sees_subjects(self, step: int) -> bool:
        """Tell whether a step sees the subjects of the prompt."""
        return self.subjects is None or bool(self.subjects[step])


class Steered(NamedTuple):
    """The values of one step, as arguments of the compiled program; see `Steering`.

    Attributes:
        guidance_scale: a number.
        guidance_rescale: a number.
        dial: "blocks", a number for each transformer block.
        controls: a number for each ControlNet.
        sparse: its capacity is no argument, but decides which program runs.
    """

    guidance_scale: Any = None
    guidance_rescale: Any = None
    dial: Any = None
    controls: tuple[Any, ...] = ()
    sparse: Sparse | None = None


class Known(NamedTuple):
    """The part of a picture that is not drawn but given.

    Attributes:
        drawn: "1 h w 1", 1 where the picture is drawn, 0 where it is given.
        latents: for each step that is taken, what is given, "B h w C", at the noise level after it.
    """

    drawn: Any
    latents: Sequence[Any]


@dataclass(frozen=True)
class Settings:
    """How to draw.

    Attributes:
        num_inference_steps: steps of the sampler, 1 to the schedule's length.
        sampler: one of SAMPLERS, or CHECKPOINT for the one that the checkpoint names.
        guidance_scale: of classifier-free guidance; 1 or less draws without it, at half the work.
        guidance_rescale: share, 0 to 1, by which the guided prediction's standard deviation is
            brought back to the unguided one's.
        guidance_interval: the range of steps that is guided, from and to. In every range of steps,
            0 is before the first step that is taken and 1 is after the last. Steps that a photo
            leaves out do not count, as in diffusers.
        karras: whether the steps are spaced by Karras et al.'s rule.
        eta: share of fresh noise in each step of DDIM, 0 to 1; None means the sampler's own.
        moa_strength: where the dial stands: a number for all layers and steps, or several
            `Strength`; a later one overrules an earlier one.
        delay: share of the steps, from the first one on, that see the prompt's text without its
            subjects, in every expert; 0 is none of them and 1 all. Source: delayed subject
            conditioning is FastComposer's (arXiv 2305.10431).
        capacity: share of the pixels, in (0, 1], that the personalized expert is computed for in
            every mixture layer: those at which it weighs most. Below 1, it is faster and not exact.
        skip_below: leave the expert out of a layer, at a step, where its mean weight over the
            picture is at most this; 0 to 1, and 0 is off.
    """

    num_inference_steps: int = 50
    sampler: str = "unipc"
    guidance_scale: float = 5.0
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    karras: bool = False
    eta: float | None = None
    moa_strength: SupportsFloat | Sequence[Strength] = 1.0
    delay: float = 0.0
    capacity: float = 1.0
    skip_below: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that no sampler takes."""
        if not 0.0 <= self.guidance_rescale <= 1.0:
            raise InputError(
                f"guidance_rescale={self.guidance_rescale}: must lie between 0 (off) and 1"
            )
        if not np.isfinite(self.guidance_scale):
            raise InputError(f"guidance_scale={self.guidance_scale}: must be a number, e.g. 5")
        check_range(*self.guidance_interval)
        if not 0.0 <= self.delay <= 1.0:
            raise InputError(f"delay={self.delay}: must lie between 0 (off) and 1, e.g. 0.2")
        if not 0.0 < self.capacity <= 1.0:
            raise InputError(
                f"capacity={self.capacity}: must lie between 0 and 1 (exact), e.g. 0.5; "
                "moa_strength=0 is the prior alone"
            )
        if not 0.0 <= self.skip_below <= 1.0:
            raise InputError(f"skip_below={self.skip_below}: must lie between 0 (off) and 1")

    def resolved(self, scheduler_config: Mapping[str, Any]) -> "Settings":
        """Replace CHECKPOINT by the sampler that a `scheduler_config.json` names.

        Raises:
            InputError: it names an unsupported sampler; the message names the nearest supported
                one.
        """
        if self.sampler != CHECKPOINT:
            return self
        name, karras = sampler_of(scheduler_config)
        return replace(self, sampler=name, karras=karras or self.karras)

    @property
    def guided(self) -> bool:
        """Whether there is guidance at all."""
        return self.guidance_scale > 1.0

    @property
    def sparse(self) -> Sparse | None:
        """How much of the personalized expert is computed; None means all of it."""
        if self.capacity == 1.0 and self.skip_below == 0.0:
            return None
        return Sparse(self.skip_below, self.capacity)

    def make_sampler(self, schedule: NoiseSchedule, skip: int = 0) -> Sampler:
        """Lay out the steps.

        Args:
            skip: how many steps to leave out at the noisy end, if a picture starts from a photo.

        Raises:
            InputError: there is no such sampler, or it does not take these options or so many
                steps.
        """
        return make_sampler(
            self.sampler,
            schedule,
            self.num_inference_steps,
            skip=skip,
            karras=self.karras,
            eta=self.eta,
        )

    def steering(self, blocks: Sequence[str], skip: int = 0) -> Steering:
        """Lay guidance, the dial and the delay out over the steps that are taken.

        Args:
            blocks: paths of the U-Net's transformer blocks; empty without MoA.
            skip: see `make_sampler`; the tables have the steps that are left.

        Raises:
            InputError: a `Strength` is for layers that do not exist, or a range holds no step.
        """
        n = self.num_inference_steps - skip
        dial = dial_table(self.moa_strength, n, blocks)
        steering = Steering(dial=dial, sparse=self.sparse if blocks else None)
        if self.delay:
            subjects = over_steps(0.0, n, 0.0, self.delay, outside=1.0)
            steering = steering._replace(subjects=subjects)
        if not self.guided:
            return steering
        # Outside of the interval, 1 is the positive prediction alone.
        scale = over_steps(self.guidance_scale, n, *self.guidance_interval, outside=1.0)
        rescale = np.full(n, self.guidance_rescale)
        return steering._replace(guidance_scale=scale, guidance_rescale=rescale)


def dial_table(
    strength: SupportsFloat | Sequence[Strength], num_steps: int, blocks: Sequence[str]
) -> Float[np.ndarray, "n blocks"] | None:
    """Lay the dial out over steps and transformer blocks; return None without blocks.

    Raises:
        InputError: a `Strength` is for layers that the U-Net does not have; the message lists those
            that it has.
    """
    dials = [Strength(float(strength))] if np.ndim(strength) == 0 else list(strength)
    if not blocks:
        return None
    table = np.ones((num_steps, len(blocks)))  # 1 is what the router chose
    for dial in dials:  # in order: a later one overrules
        here = np.array([path.startswith(dial.layers) for path in blocks])
        if not here.any():
            stages = sorted({path.split(".attentions")[0] for path in blocks})
            raise InputError(
                f"moa_strength: no layer begins with {dial.layers!r}; there are {', '.join(stages)}"
            )
        steps = over_steps(1.0, num_steps, dial.start, dial.end)
        table[np.ix_(steps > 0, here)] = dial.value
    return table
