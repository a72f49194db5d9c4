"""What a ControlNet is given: a picture to draw to, how strongly, and in which steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from moa_jax.data.images import prepare_control_image
from moa_jax.diffusion import over_steps
from moa_jax.errors import InputError
from moa_jax.sampling.request import Picture


@dataclass(frozen=True)
class Control:
    """A picture for a ControlNet.

    Attributes:
        image: edges, a pose, a depth map, ...: whatever the ControlNet was trained on.
        scale: how strongly it is followed; 0 is not at all.
        start: share of the steps that are taken before the first one it is for.
        end: share of the steps that are over after the last one it is for.
    """

    image: Picture
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


def lay_out(
    controls: Sequence[Control], controlnets: int, size: tuple[int, int], num_steps: int
) -> tuple[tuple[Float[np.ndarray, "1 H W 3"], ...], tuple[Float[np.ndarray, " n"], ...]]:
    """Bring controls to the size of the pictures and their scales to the steps.

    Args:
        controlnets: how many are loaded.
        size: width and height in pixels.
        num_steps: the steps that are taken.

    Returns:
        For each control its picture, in [0, 1], and its scale at each step.

    Raises:
        InputError: not one for each ControlNet, a picture that cannot be read, or a wrong range.
    """
    if controls and len(controls) != controlnets:
        raise InputError(
            f"{len(controls)} control(s) are given and {controlnets} ControlNet(s) are loaded: "
            "give one for each, in their order; a scale of 0 leaves one out"
        )
    pictures = (prepare_control_image(control.image, *size)[None] for control in controls)
    scales = (over_steps(each.scale, num_steps, each.start, each.end) for each in controls)
    return tuple(pictures), tuple(scales)
