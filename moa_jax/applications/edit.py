"""Edit a real photo: find the noise it would be drawn from, then draw with other people in it.

Source: DDIM inversion (2010.02502, Sec. 4.3). MoA leaves to the prior what the new subjects do not
need, so that stays as in the photo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from PIL import Image

from moa_jax.diffusion import OnStep
from moa_jax.errors import InputError
from moa_jax.sampling.control import Control
from moa_jax.sampling.photo import coarse_mask, paste, psnr
from moa_jax.sampling.pipeline import Pipeline, Result
from moa_jax.sampling.request import Picture
from moa_jax.sampling.settings import Known, Settings
from moa_jax.sampling.start import Start, skipped_steps


@dataclass(frozen=True, eq=False)
class Edit:
    """An edited photo.

    Attributes:
        result: the picture, and which expert drew where.
        photo: the photo, cut to size.
        reconstruction: the photo drawn again from its noise, without a swap.
        error: how near the reconstruction is to the photo after the VAE, as PSNR in dB. What the
            reconstruction lost, the edit has lost too.
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
    plain_prompt: bool = False,
    height: int | None = None,
    width: int | None = None,
    iterations: int = 5,
    controls: Sequence[Control] = (),
    watch: bool = False,
    on_step: OnStep | None = None,
    **settings: Any,
) -> Edit:
    """Draw a photo again with other people in it.

    Args:
        image: the photo.
        prompt: what to draw; `<|image|>` after each word that one of `subjects` personalizes.
        subjects: a picture of each. A subject who is in `source_subjects` too is kept.
        source_prompt: what the photo shows, with a marker for each of `source_subjects`.
        mask: bright where the photo may change. The rest is kept, but for a soft edge.
        strength: how far to lead the photo back to noise, 0 to 1; less keeps more of it. In both
            directions, a range of steps is a part of the steps that this leaves.
        plain_prompt: see `Pipeline.__call__`; it is about all three prompts.
        iterations: passes through the network for each step of the way back.
        controls: one picture for each ControlNet; they act on what is drawn anew.
        watch: whether the result holds the attention to the subjects.
        **settings: see `Settings`. The sampler is DDIM, and guidance is off unless it is given.

    Raises:
        InputError: an argument cannot be served; the message names it, its value and the remedy.
    """
    chosen = _ddim_settings(settings)
    skip = skipped_steps(chosen.num_inference_steps, strength, inpainting=False)
    photo = pipe.photo(image, mask, height, width)
    clean = pipe.encode(photo)
    source = pipe.request(source_prompt, source_subjects, plain_prompt=plain_prompt)
    asked = pipe.request(prompt, subjects, negative_prompt, plain_prompt=plain_prompt)
    unguided = replace(chosen, guidance_scale=1.0)  # guidance can keep the way back from converging
    noisy, *later = pipe.invert(source, clean, unguided, iterations, skip=skip, on_step=on_step)
    # DDIM without noise of its own reads no key.
    keys, start = jax.random.key(0)[None], Start(noisy, skip)
    again = pipe.draw(source, noisy, keys, unguided, start=start, on_step=on_step)
    if photo.mask is not None:
        start = start._replace(known=Known(coarse_mask(photo.mask, pipe.downscale), later))
    result = pipe.draw(
        asked, noisy, keys, chosen, start=start, controls=controls, watch=watch, on_step=on_step
    )
    result = replace(result, images=[paste(picture, photo) for picture in result.images])
    # Measured against the VAE's own copy: what the VAE loses, inversion cannot keep.
    (through_vae,), (reconstruction,) = pipe.decode(clean), again.images
    error = psnr(np.asarray(reconstruction), np.asarray(through_vae))
    return Edit(result, Image.fromarray(photo.pixels), reconstruction, error)


def _ddim_settings(settings: Mapping[str, Any]) -> Settings:
    """Fill in DDIM without guidance, and refuse another sampler."""
    chosen = Settings(**{"sampler": "ddim", "guidance_scale": 1.0, **settings})
    if chosen.sampler != "ddim" or chosen.karras or chosen.eta:
        raise InputError(
            f"sampler={chosen.sampler!r}, karras={chosen.karras}, eta={chosen.eta}: only DDIM "
            "without noise of its own leads back; leave them out"
        )
    return chosen
