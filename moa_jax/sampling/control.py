"""What a ControlNet is given: a picture to follow, how strongly, and in which steps."""

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
        scale: how strongly the picture is followed; 0 means not at all.
        start: share of the steps after which it begins to act; 0 is before the first step.
        end: share of the steps after which it ceases to act; 1 is after the last step.
    """

    image: Picture
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


def lay_out(
    controls: Sequence[Control], controlnets: int, size: tuple[int, int], num_steps: int
) -> tuple[tuple[Float[np.ndarray, "1 H W 3"], ...], tuple[Float[np.ndarray, " n"], ...]]:
    """Resize the pictures of controls, and lay their scales out over the steps.

    Args:
        controlnets: how many ControlNets are loaded.
        size: width and height in pixels.
        num_steps: how many steps are taken.

    Returns:
        The controls' pictures, in [0, 1], and the scale of each control at every step.

    Raises:
        InputError: there is not one control for each ControlNet, a picture cannot be read, or a
            range of steps is wrong.
    """
    if controls and len(controls) != controlnets:
        raise InputError(
            f"{len(controls)} control(s) are given and {controlnets} ControlNet(s) are loaded: "
            "give one for each, in their order; a scale of 0 leaves one out"
        )
    # One row each: every picture of a batch follows the same control.
    pictures = (prepare_control_image(control.image, *size)[None] for control in controls)
    scales = (over_steps(each.scale, num_steps, each.start, each.end) for each in controls)
    return tuple(pictures), tuple(scales)
