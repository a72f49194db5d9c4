"""What the frames of a sequence share: one noise for all of them, so that little else moves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moa_jax.diffusion import OnStep
from moa_jax.errors import InputError
from moa_jax.sampling.control import Control
from moa_jax.sampling.pipeline import Pipeline, Result
from moa_jax.sampling.request import Request
from moa_jax.sampling.settings import Settings
from moa_jax.sampling.start import latent_shape, picture_keys, standard_noise


@dataclass(frozen=True)
class Frames:
    """How frames are drawn, whatever changes from one to the next.

    Attributes:
        seed: of the noise; every frame has that of the pipeline's first picture of this seed.
        height: in pixels; None means the checkpoint's own.
        width: likewise.
        controls: one picture for each ControlNet.
        watch: whether the result holds the attention to the subjects.
        batch_size: frames at once; None means as many as the memory holds.
        on_step: called with the index of each step that is done and the frames' latents after it.
    """

    seed: int = 0
    height: int | None = None
    width: int | None = None
    controls: Sequence[Control] = ()
    watch: bool = False
    batch_size: int | None = None
    on_step: OnStep | None = None

    def draw(self, pipe: Pipeline, request: Request, settings: Settings) -> Result:
        """Draw a request whose rows are the frames."""
        count = len(request.input_ids)
        keys = picture_keys(self.seed, 1)
        noise = standard_noise(keys, latent_shape(pipe.base, self.height, self.width, 1))
        return pipe.draw(
            request,
            jnp.repeat(noise, count, axis=0),
            jnp.repeat(keys, count),  # a sampler that adds noise adds the same to every frame
            settings,
            controls=self.controls,
            watch=self.watch,
            batch_size=self.batch_size,
            on_step=self.on_step,
        )


def shares(frames: int) -> Float[np.ndarray, " frames"]:
    """Spread frames evenly from 0 to 1, both ends included.

    Raises:
        InputError: there are fewer than 2 frames.
    """
    if frames < 2:
        raise InputError(f"frames={frames}: must be 2 or more, one for each end")
    return np.linspace(0.0, 1.0, frames)


def settings_of(options: dict[str, Any]) -> tuple[Frames, Settings]:
    """Split the options of an application: those of `Frames`, and the rest for `Settings`."""
    known = {name: options.pop(name) for name in Frames.__dataclass_fields__ if name in options}
    return Frames(**known), Settings(**options)
