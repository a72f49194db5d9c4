"""A loaded model's compiled programs, on prepared arrays: draw, encode, invert.

`moa_jax.pipeline` puts prompts and pictures in front of it. One program serves all calls with the
same shapes, sampler and number of steps; whatever else a call asks for are arguments of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from moa_jax.backbone.stable_diffusion import Component, StableDiffusion
from moa_jax.batches import in_batches
from moa_jax.control import Control, lay_out
from moa_jax.diffusion import NoiseSchedule, ddim_inversion
from moa_jax.generation import Networks, decode, embed, encode, generate, invert
from moa_jax.method.model import MoA
from moa_jax.noise import Latents, latent_shape
from moa_jax.photo import Photo
from moa_jax.request import Request
from moa_jax.settings import Known, Settings


@dataclass(frozen=True, eq=False)
class Result:
    """What a pipeline drew.

    Attributes:
        images: the pictures.
        routing: of each mixture layer, by its path, the personalized expert's weight at every step
            [steps, B, h, w], in [0, 1]; empty without MoA.
        timesteps: the noise schedule's timestep of each step, noisiest first.
        attention: of each cross-attention layer, how much the personalized expert attends to each
            subject's word [steps, B, h, w, K], mean over the heads; empty if not asked for.
    """

    images: list[Image.Image]
    routing: dict[str, np.ndarray]
    timesteps: np.ndarray
    attention: dict[str, np.ndarray] = field(default_factory=dict)


class Engine:
    """Draw from prepared requests.

    Attributes:
        base: the checkpoint: networks, tokenizer, scheduler's settings.
        model: the mixtures, or None for plain Stable Diffusion.
        params: a tree with an entry for each network; may be replaced by another of its shape.
        fetch: brings what was drawn to numpy; may be replaced, for parameters on many hosts.
    """

    def __init__(
        self,
        base: StableDiffusion,
        model: MoA | None = None,
        params: Mapping[str, Any] | None = None,
        max_subjects: int = 4,
        controlnets: Sequence[Component] = (),
    ) -> None:
        """Wrap loaded networks; `Pipeline.from_pretrained` loads them.

        Args:
            params: of `model`; the base's own by default.
            max_subjects: how many subjects a prompt may have.
            controlnets: what pictures can be drawn to.
        """
        names = ("unet", "text_encoder", "vae")
        self.base = base
        self.model = model
        self.params = dict(params or {name: getattr(base, name).params for name in names})
        if controlnets:
            self.params["controlnets"] = tuple(each.params for each in controlnets)
        self.max_subjects = max_subjects
        self.schedule = NoiseSchedule.from_config(base.scheduler_config)
        self.fetch: Callable[[Any], Any] = jax.device_get
        self._on_step: Callable[[int], None] | None = None
        networks = Networks(base, model, tuple(each.module for each in controlnets))
        self._networks = networks
        self._generate = jax.jit(partial(generate, networks), static_argnames=("watch", "on_step"))
        self._encode = jax.jit(partial(encode, base))
        self._decode = jax.jit(partial(decode, base))
        self._embed = jax.jit(partial(embed, base))
        self._invert = jax.jit(partial(invert, networks), static_argnames="on_step")
        if model:
            self._features = jax.jit(model.encode_subjects)

    @property
    def dtype(self) -> np.dtype:
        """What the networks compute in."""
        return jnp.dtype(self.base.unet.module.dtype)

    @property
    def downscale(self) -> int:
        """Pixels along one side of a latent."""
        return self.base.vae.module.config.downscale

    def draw(
        self,
        request: Request,
        latents: Latents,
        keys: Any,
        settings: Settings | None = None,
        *,
        skip: int = 0,
        start: Latents | None = None,
        known: Known | None = None,
        controls: Sequence[Control] = (),
        watch: bool = False,
        batch_size: int | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Result:
        """Draw a batch of prepared requests, one compiled program for each shape and step count.

        Args:
            latents: standard normal draws.
            keys: a random key for each picture, for samplers that add noise.
            settings: how; by default `Settings()`.
            skip: steps left out at the noisy end.
            start: latents at the noise level of the first step that is taken, instead of `latents`.
            known: what is not drawn but given.

        For the others see `Pipeline.__call__`.
        """
        settings = (settings or Settings()).resolved(self.base.scheduler_config)
        self._on_step = on_step
        plan = settings.plan(self.schedule, skip)
        steering = settings.steering(self.model.blocks if self.model else (), skip)
        size = tuple(side * self.downscale for side in latents.shape[2:0:-1])
        count, steps = len(self._networks.controlnets), settings.num_inference_steps
        steering = steering._replace(controls=lay_out(controls, count, size, steps, skip))
        if start is None:
            start = jnp.asarray(latents) * plan.init_noise_sigma
        drawn_mask, kept = known or (None, None)

        def run(rows: tuple[Request, Latents, Any, Any]) -> tuple[np.ndarray, Any]:
            request, start, keys, kept = rows
            steered = steering._replace(known=known and Known(drawn_mask, kept))
            report = on_step and self._report
            drawn = self._generate(
                self.params, request, start, keys, plan, steered, watch=watch, on_step=report
            )
            pixels, seen = self.fetch(drawn)
            return pixels, jax.tree.map(lambda maps: np.moveaxis(maps, 0, 1), seen)

        batches = in_batches(run, (request, start, keys, kept), batch_size)
        pixels, seen = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
        routing, attention = jax.tree.map(lambda maps: np.moveaxis(maps, 1, 0), seen)
        jax.effects_barrier()  # every on_step has been told
        images = [Image.fromarray(picture) for picture in pixels]
        return Result(images, routing, np.asarray(plan.timesteps), attention)

    def encode(self, photo: Photo) -> Float[Array, "1 H W C"]:
        """Turn a photo into latents."""
        latent_shape(self.base, *photo.pixels.shape[:2], 1)  # refuses a size that is none
        return self._encode(self.params, photo.pixels[None])

    def decode(self, latents: Latents) -> list[Image.Image]:
        """Turn latents into pictures."""
        return [Image.fromarray(each) for each in self.fetch(self._decode(self.params, latents))]

    def embed(self, request: Request) -> Float[np.ndarray, "B S D"]:
        """Embed the prompts of a request."""
        return np.asarray(self.fetch(self._embed(self.params, request.input_ids)))

    def features(self, request: Request) -> Float[np.ndarray, "B K F"]:
        """Look at the subjects of a request: the image features that are bound to their words."""
        return np.asarray(self.fetch(self._features(self.params, request.subject_images)))

    def invert(
        self,
        request: Request,
        clean: Latents,
        settings: Settings,
        iterations: int = 5,
        on_step: Callable[[int], None] | None = None,
    ) -> Float[np.ndarray, "B _ H W C"]:
        """Find the noise that DDIM draws photos from, and the way there.

        Args:
            request: what the photos show, a row for each.
            clean: of `encode`.
            iterations: of the fixed point in each step; more come nearer.

        Returns:
            The latents before each of DDIM's n steps, noisiest first, and after the last.
        """
        self._on_step = on_step
        plan = ddim_inversion(self.schedule, settings.num_inference_steps, iterations)
        steering = settings.steering(self.model.blocks if self.model else ())
        report = on_step and self._report
        path = self._invert(self.params, request, clean, plan, steering, on_step=report)
        jax.effects_barrier()
        return np.moveaxis(self.fetch(path)[::-iterations], 0, 1)

    def _report(self, step: int) -> None:
        """Tell whoever listens now; compiled once, whoever that is."""
        if self._on_step is not None:
            self._on_step(step)
