"""Edit a real photo: find the noise it would be drawn from, then draw with other people in it.

Source: DDIM inversion (2010.02502, Sec. 4.3). What the new subjects do not need stays as in the
photo, for MoA leaves it to the prior.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.sampling.control import Control
from moa_jax.sampling.photo import coarse_mask, paste, psnr
from moa_jax.sampling.pipeline import Pipeline, Result
from moa_jax.sampling.request import Picture
from moa_jax.sampling.settings import Known, Settings
from moa_jax.sampling.start import skipped_steps


@dataclass(frozen=True, eq=False)
class Edit:
    """An edited photo.

    Attributes:
        result: the picture, where it was drawn, and by whom.
        photo: the photo, cut to size.
        reconstruction: the photo drawn again from its noise, without a swap.
        error: how near that is to the photo through the VAE, PSNR in dB; what the reconstruction
            lost, the edit has lost too.
    """

    result: Result
    photo: Image.Image
    reconstruction: Image.Image
    error: float


def edit(
    pipe: Pipeline,
    image: Picture,
    prompt: str,
    subjects: Sequence[Picture] = (),
    *,
    source_prompt: str,
    source_subjects: Sequence[Picture] = (),
    mask: Picture | None = None,
    strength: float = 1.0,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    iterations: int = 5,
    controls: Sequence[Control] = (),
    watch: bool = False,
    on_step: Callable[[int], None] | None = None,
    **settings: Any,
) -> Edit:
    """Draw a photo again with other people in it.

    Args:
        image: the photo.
        prompt: what to draw; `<|image|>` after each word that one of `subjects` personalizes.
        subjects: a picture of each. One that is in `source_subjects` too is kept.
        source_prompt: what the photo shows; likewise with `source_subjects`.
        mask: bright where the photo may change; but for a soft edge, the rest is kept.
        strength: how far back to lead the photo, 0 to 1: less keeps more of it. All parts of the
            steps are parts of those that this leaves, on both ways.
        iterations: passes through the network for each step of the way back.
        controls: for each ControlNet its picture, for what is drawn anew.
        watch: whether to give the attention to the subjects in the result.
        **settings: of `Settings`; the sampler is DDIM, and without guidance unless it is given.

    Raises:
        InputError: an argument that cannot be served, named with its value and the remedy.
    """
    chosen = Settings(**{"sampler": "ddim", "guidance_scale": 1.0, **settings})
    if chosen.sampler != "ddim" or chosen.karras or chosen.eta:
        raise InputError(
            f"sampler={chosen.sampler!r}, karras={chosen.karras}, eta={chosen.eta}: only DDIM "
            "without noise of its own leads back; leave them out"
        )
    skip = skipped_steps(chosen.num_inference_steps, strength, inpainting=False)
    photo = pipe.photo(image, mask, height, width)
    clean = pipe.encode(photo)
    source = pipe.request(source_prompt, source_subjects)
    asked = pipe.request(prompt, subjects, negative_prompt)
    unguided = replace(chosen, guidance_scale=1.0)
    start, *later = pipe.invert(source, clean, unguided, iterations, skip=skip, on_step=on_step)
    options = {"skip": skip, "start": start, "keys": jax.random.key(0)[None], "on_step": on_step}
    again = pipe.draw(source, start, settings=unguided, **options)
    options |= {"controls": controls, "watch": watch}
    if photo.mask is not None:
        options["known"] = Known(coarse_mask(photo.mask, pipe.downscale), later)
    result = pipe.draw(asked, start, settings=chosen, **options)
    result = replace(result, images=[paste(picture, photo) for picture in result.images])
    (through_vae,), (reconstruction,) = pipe.decode(clean), again.images
    error = psnr(np.asarray(reconstruction), np.asarray(through_vae))
    return Edit(result, Image.fromarray(photo.pixels), reconstruction, error)
