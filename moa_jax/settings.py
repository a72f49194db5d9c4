"""How to draw, whatever is drawn: sampler, guidance, and how strongly the subjects take part.

Turns what a person writes into tables over steps and layers, which are arguments of the compiled
program: only another sampler or number of steps compiles anew. Knows no networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from moa_jax.diffusion import NoiseSchedule, Sampler, make_plan, over_steps, sampler_of
from moa_jax.errors import InputError

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Strength:
    """How strongly the personalized expert takes part, in some layers and steps.

    Attributes:
        value: multiplies its weight: 0 is Stable Diffusion exactly, 1 what the router chose, and
            beyond it up to the personalized expert alone.
        layers: how the names of the U-Net's layers begin: "down", "mid", "up", "up_blocks.1", ...;
            "" is all of them.
        start: share of the steps before the first one it is for.
        end: share of the steps that are over after the last one it is for.
    """

    value: float
    layers: str = ""
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a value below 0."""
        if not 0.0 <= self.value < np.inf:
            raise InputError(f"moa_strength={self.value}: must be 0 (the prior) or more, e.g. 1")


class Steering(NamedTuple):
    """What the compiled program needs of the settings, and of what it must keep to.

    Attributes:
        guidance_scale: "n", one for each step; None: no guidance, at half the work.
        guidance_rescale: see `classifier_free_guidance`; None: not at all.
        strength: "n blocks", for each step and transformer block; None: as the router chooses.
        controls: for each ControlNet its picture, "1 H W 3", and its scale, "n".
        known: what stays as it is, see `Known`; None: nothing.
    """

    guidance_scale: Any = None
    guidance_rescale: Any = None
    strength: Any = None
    controls: tuple[tuple[Any, Any], ...] = ()
    known: Any = None


class Known(NamedTuple):
    """The part of a picture that is not drawn but given.

    Attributes:
        drawn: "1 h w 1", 1 where the picture is drawn, 0 where it is given.
        latents: "B n h w C", what is given, at the noise level after each step.
    """

    drawn: Any
    latents: Any


@dataclass(frozen=True)
class Settings:
    """How to draw.

    Attributes:
        num_inference_steps: of the sampler, 1 to the schedule's length.
        sampler: one of SAMPLERS, or CHECKPOINT for the one that the checkpoint names.
        guidance_scale: of classifier-free guidance; 1 or less draws without it, at half the work.
        guidance_rescale: brings the guided prediction's deviation back to the unguided one's, by
            this share, 0 to 1.
        guidance_interval: the share of the steps that is guided, from and to.
        karras: whether the steps are spaced by Karras et al.'s rule.
        eta: share of fresh noise in each step of DDIM, 0 to 1; None is the sampler's own.
        moa_strength: a number for all layers and steps, or several `Strength`, of which a later one
            overrules an earlier one.
    """

    num_inference_steps: int = 50
    sampler: str = "unipc"
    guidance_scale: float = 5.0
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    karras: bool = False
    eta: float | None = None
    moa_strength: float | Sequence[Strength] = 1.0

    def __post_init__(self) -> None:
        """Refuse what no sampler is asked about."""
        if not 0.0 <= self.guidance_rescale <= 1.0:
            raise InputError(
                f"guidance_rescale={self.guidance_rescale}: must lie between 0 (off) and 1"
            )
        if not np.isfinite(self.guidance_scale):
            raise InputError(f"guidance_scale={self.guidance_scale}: must be a number, e.g. 5")
        over_steps(1.0, 1, *self.guidance_interval)

    def resolved(self, scheduler_config: Mapping[str, Any]) -> "Settings":
        """Put in place of CHECKPOINT the sampler that a `scheduler_config.json` names.

        Raises:
            InputError: it names one that is not supported, with the nearest that is.
        """
        if self.sampler != CHECKPOINT:
            return self
        name, karras = sampler_of(scheduler_config)
        return replace(self, sampler=name, karras=karras or self.karras)

    @property
    def guided(self) -> bool:
        """Whether there is guidance at all."""
        return self.guidance_scale > 1.0

    def plan(self, schedule: NoiseSchedule, skip: int = 0) -> Sampler:
        """Lay out the steps.

        Args:
            skip: steps left out at the noisy end, for a picture that starts from another.

        Raises:
            InputError: no such sampler, or not with these options or so many steps.
        """
        return make_plan(
            self.sampler,
            schedule,
            self.num_inference_steps,
            skip=skip,
            karras=self.karras,
            eta=self.eta,
        )

    def steering(self, blocks: Sequence[str], skip: int = 0) -> Steering:
        """Lay guidance and strength out over the steps that are taken.

        Args:
            blocks: paths of the U-Net's transformer blocks; none of them without MoA.
            skip: see `plan`.

        Raises:
            InputError: a strength for layers that do not exist.
        """
        n = self.num_inference_steps
        scale = over_steps(self.guidance_scale, n, *self.guidance_interval, outside=1.0)
        strength = strength_table(self.moa_strength, n, blocks)
        return Steering(
            guidance_scale=scale[skip:] if self.guided else None,
            guidance_rescale=np.float32(self.guidance_rescale)
            if self.guided and self.guidance_rescale
            else None,
            strength=None if strength is None else strength[skip:],
        )


def strength_table(
    strength: float | Sequence[Strength], num_steps: int, blocks: Sequence[str]
) -> Float[np.ndarray, "n blocks"] | None:
    """Give the strength of each step and transformer block; None where nothing changes it.

    Raises:
        InputError: layers that are none of the U-Net's, with those that are.
    """
    dials = [Strength(strength)] if isinstance(strength, int | float) else list(strength)
    if all(dial.value == 1.0 for dial in dials) or not blocks:
        return None
    table = np.ones((num_steps, len(blocks)))
    for dial in dials:
        here = np.array([path.startswith(dial.layers) for path in blocks])
        if not here.any():
            stages = sorted({path.split(".attentions")[0] for path in blocks})
            raise InputError(
                f"moa_strength: no layer begins with {dial.layers!r}; there are {', '.join(stages)}"
            )
        steps = over_steps(1.0, num_steps, dial.start, dial.end)
        table[np.ix_(steps > 0, here)] = dial.value
    return table
