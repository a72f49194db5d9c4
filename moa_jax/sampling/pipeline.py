"""From a checkpoint, a prompt and its subjects to new pictures: load, check, draw.

`sample.py`, the applications, the demo and the previews of a training run all call this. Without
MoA weights it is plain Stable Diffusion. It writes no files and reads no command line.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from moa_jax.backbone.lora import read_lora
from moa_jax.diffusion import OnStep
from moa_jax.errors import InputError
from moa_jax.sampling.compiled import Engine, Result
from moa_jax.sampling.control import Control
from moa_jax.sampling.load import load
from moa_jax.sampling.lora import Styles
from moa_jax.sampling.photo import Photo, paste, prepare_photo
from moa_jax.sampling.request import Picture, Request, make_request, repeat
from moa_jax.sampling.settings import Settings
from moa_jax.sampling.start import (
    Latents,
    Start,
    latent_shape,
    picture_keys,
    skipped_steps,
    standard_noise,
    start_from_photo,
)

__all__ = ["Pipeline", "Result"]


class Pipeline(Engine):
    """Draw pictures of prompts with Stable Diffusion, or with MoA on top of it."""

    @classmethod
    def from_pretrained(
        cls, base: str | Path, moa: str | Path | None = None, dtype: Any = None, **options: Any
    ) -> "Pipeline":
        """Load a folder or a single file, and MoA weights trained on it: see `load`."""
        return cls(*load(base, moa, dtype, **options))

    def add_lora(self, file: str | Path, weight: float = 1.0, experts: str = "both") -> None:
        """Merge a LoRA into the weights; several add up, and the same at -weight takes it back.

        The weights are then the same arrays as before. If you replace `params`, the new weights
        count as weights without LoRAs.

        Args:
            file: .safetensors, with the keys of kohya's scripts, diffusers or peft.
            weight: factor of the change; 1 is as trained.
            experts: which experts it changes: "both", "prior" or "personalized", see `apply_lora`.

        Raises:
            InputError: the file is damaged, or made for another architecture.
        """
        self.params = self._styles.add(self.params, read_lora(file), weight, experts)

    @cached_property
    def _styles(self) -> Styles:
        return Styles()

    def __call__(
        self,
        prompt: str,
        subjects: Sequence[Picture] = (),
        negative_prompt: str = "",
        num_images: int = 1,
        seed: int = 0,
        latents: Latents | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        image: Picture | None = None,
        mask: Picture | None = None,
        strength: float | None = None,
        plain_prompt: bool = False,
        controls: Sequence[Control] = (),
        watch: bool = False,
        batch_size: int | None = None,
        on_step: OnStep | None = None,
        **settings: Any,
    ) -> Result:
        """Draw pictures of a prompt.

        Args:
            prompt: with `<|image|>` after each word of `subjects`; `(text:1.2)` weighs words.
            subjects: a picture of each, in the order of the markers.
            seed: picture i of a seed is the same whatever `num_images` is.
            latents: standard normal draws [num_images, height/8, width/8, 4]; None: of the seed.
            height: in pixels; None means the checkpoint's own or, with `image`, one that keeps the
                photo's proportions.
            width: likewise.
            image: a photo to start from, instead of noise alone.
            mask: bright where `image` is drawn anew; the rest is kept, but for a soft edge.
            strength: how much of the way from noise `image` goes through, 0 to 1; at 1 nothing of
                it remains where it is drawn over. None means 0.8, and 1 with a mask.
            plain_prompt: whether prompts are read without weights and cut, see `encode_prompt`.
            controls: one picture for each ControlNet.
            watch: whether the result holds the attention to the subjects.
            batch_size: pictures at once; None means as many as the memory holds.
            on_step: called with each step's index and latents; `decode` makes a preview of these.
            **settings: see `Settings`.

        Raises:
            InputError: an argument cannot be served; the message names it and the remedy.
        """
        chosen = Settings(**settings).resolved(self.base.scheduler_config)
        keys = picture_keys(seed, num_images)  # a key each, whatever else is in the batch
        request = self.request(prompt, subjects, negative_prompt, plain_prompt=plain_prompt)
        request = repeat(request, num_images)
        photo = self._photo(image, mask, strength, height, width)
        size = (height, width) if photo is None else photo.pixels.shape[:2]
        shape = latent_shape(self.base, *size, num_images)
        latents = standard_noise(keys, shape) if latents is None else _checked(latents, shape)
        options = {"controls": controls, "watch": watch, "batch_size": batch_size}
        if photo is None:
            return self.draw(request, latents, keys, chosen, on_step=on_step, **options)
        start = self._start(photo, strength, chosen, latents)
        result = self.draw(request, latents, keys, chosen, start=start, on_step=on_step, **options)
        # The VAE changes every pixel, so the photo's own come back outside of the mask.
        return replace(result, images=[paste(picture, photo) for picture in result.images])

    def _start(
        self, photo: Photo, strength: float | None, settings: Settings, noise: Latents
    ) -> Start:
        skip = skipped_steps(settings.num_inference_steps, strength, photo.mask is not None)
        sampler = settings.make_sampler(self.schedule, skip)
        return start_from_photo(self.encode(photo), photo, sampler, noise, skip)

    def _photo(
        self, image: Picture | None, mask: Picture | None, strength: float | None, *size: int | None
    ) -> Photo | None:
        if image is not None:
            return self.photo(image, mask, *size)
        if mask is not None or strength is not None:  # rather than ignore them
            raise InputError("mask and strength are about a photo: give image (--image) too")
        return None

    def request(
        self,
        prompt: str,
        subjects: Sequence[Picture] = (),
        negative_prompt: str = "",
        *,
        plain_prompt: bool = False,
    ) -> Request:
        """Prepare a request of one row; see `__call__` for the arguments and errors."""
        encoder = self.base.image_encoder
        return make_request(
            self.base.tokenizer,
            prompt,
            subjects,
            negative_prompt,
            image_size=encoder and encoder.module.config.image_size,
            max_subjects=self.max_subjects if self.model else 0,
            plain_prompt=plain_prompt,
        )

    def photo(
        self,
        image: Picture,
        mask: Picture | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Photo:
        """Cut a photo and its mask to the size of the pictures; see `prepare_photo`."""
        # Without a given size, the checkpoint's own number of pixels in the photo's proportions.
        _, rows, columns, _ = latent_shape(self.base, None, None, 1)
        area = rows * columns * self.downscale**2
        return prepare_photo(image, mask, height, width, area=area, multiple=self.downscale)


def _checked(latents: Latents, shape: tuple[int, ...]) -> Latents:
    if latents.shape != shape:
        raise InputError(f"latents has shape {latents.shape}: these pictures need {shape}")
    return latents
