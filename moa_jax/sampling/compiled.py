"""The compiled programs of a loaded model, on prepared arrays: draw, encode, invert.

`Pipeline` prepares the arrays from prompts and pictures. The networks are compiled once for all
calls that draw equally many pictures of the same size: sampler, number of steps, guidance scale,
dial, ranges, photo and words are arguments of the program. Only switching guidance, ControlNets,
`watch`, sparse routing or weights of words on or off makes another program, and another capacity or
number of the prompt's windows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from PIL import Image

from moa_jax.backbone.convolutions import convolution_options
from moa_jax.backbone.stable_diffusion import Component, StableDiffusion
from moa_jax.diffusion import Denoiser, NoiseSchedule, OnStep, ddim_inversion, sample
from moa_jax.errors import InputError
from moa_jax.method.model import MoA
from moa_jax.sampling.batches import in_batches
from moa_jax.sampling.control import Control, lay_out
from moa_jax.sampling.photo import Photo
from moa_jax.sampling.program import (
    Networks,
    Seen,
    condition,
    decode,
    embed,
    encode,
    keep,
    predict,
    without_subjects,
)
from moa_jax.sampling.request import Request
from moa_jax.sampling.settings import Settings, Steering
from moa_jax.sampling.start import Latents, Start, latent_shape


@dataclass(frozen=True, eq=False)
class Result:
    """What a pipeline drew.

    Attributes:
        images: the pictures.
        routing: the personalized expert's weight in each mixture layer, by the layer's path:
            [steps, B, h, w] in [0, 1]; empty without MoA. The sampler pndm asks the networks once
            more than it has steps, and has as many rows here.
        timesteps: the noise schedule's timestep of each step, noisiest first.
        attention: how much the personalized expert attends to each subject's word, by the path of
            the cross-attention layer: [steps, B, h, w, K], mean over the heads; empty if not asked
            for.
    """

    images: list[Image.Image]
    routing: dict[str, np.ndarray]
    timesteps: np.ndarray
    attention: dict[str, np.ndarray] = field(default_factory=dict)


class Engine:
    """Draw from prepared requests.

    Attributes:
        base: the checkpoint: networks, tokenizer and the scheduler's settings.
        model: the mixtures; None means plain Stable Diffusion.
        params: a tree with an entry for each network; a tree of the same shape may replace it.
        fetch: copies what was drawn to numpy; may be replaced where parameters lie on many hosts.
        rows: how the pictures of a batch lie on the mesh that the weights are on; see `spread`.
    """

    rows = PartitionSpec()

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
            params: the parameters of `model`; None means the base's own.
            max_subjects: how many subjects a prompt may have.
            controlnets: the ControlNets; a call of `draw` gives a `Control` for each.
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
        networks = Networks(base, model, tuple(each.module for each in controlnets))
        self._networks = networks
        small = partial(jax.jit, compiler_options=convolution_options())  # not for the VAE's maps
        # Static: guidance doubles the rows, and what is not watched is not computed.
        self._condition = small(partial(condition, networks), static_argnames="guided")
        self._predict = small(partial(predict, networks), static_argnames="watch")
        self._keep = jax.jit(keep)
        self._encode = jax.jit(partial(encode, base))
        self._decode = jax.jit(partial(decode, base), static_argnames="shards")
        self._embed = small(partial(embed, base))
        if model:
            self._features = small(model.encode_subjects)

    @property
    def dtype(self) -> np.dtype:
        """The dtype that the networks compute in."""
        return jnp.dtype(self.base.unet.module.dtype)

    @property
    def downscale(self) -> int:
        """How many pixels a latent covers along each side."""
        return self.base.vae.module.config.downscale

    def spread(self, devices: Sequence[jax.Device] | None = None) -> None:
        """Draw a share of each batch on every device; all of them get the weights.

        A batch that the number of devices does not divide is drawn on every device entirely.

        Args:
            devices: None means all of this host.
        """
        mesh = Mesh(np.asarray(devices or jax.local_devices()), ("rows",))
        self.params = jax.device_put(self.params, NamedSharding(mesh, PartitionSpec()))
        self.rows = PartitionSpec("rows")

    def draw(
        self,
        request: Request,
        latents: Latents,
        keys: Any,
        settings: Settings | None = None,
        *,
        start: Start | None = None,
        controls: Sequence[Control] = (),
        watch: bool = False,
        batch_size: int | None = None,
        on_step: OnStep | None = None,
    ) -> Result:
        """Draw a batch of prepared requests.

        Args:
            latents: standard normal draws.
            keys: a random key for each picture, for samplers that add noise.
            settings: how to draw; None means `Settings()`.
            start: where to start instead of `latents`.

        `Pipeline.__call__` explains the other arguments.
        """
        settings = (settings or Settings()).resolved(self.base.scheduler_config)
        if watch and settings.sparse:
            raise InputError(
                "watch (--look) shows the attention of every pixel, which sparse routing does not "
                "compute: draw with capacity=1 and skip_below=0"
            )
        skip = start.skip if start else 0
        sampler = settings.make_sampler(self.schedule, skip)
        size = tuple(side * self.downscale for side in latents.shape[2:0:-1])  # width, height
        count, steps = len(self._networks.controlnets), len(sampler.last_rows)
        pictures, scales = lay_out(controls, count, size, steps)
        steering = self._steering(settings, skip)._replace(controls=scales)
        if start is None:
            start = Start(jnp.asarray(latents) * sampler.init_noise_sigma)
        drawn_mask, kept = start.known or (None, None)

        def run(rows: tuple[Request, Latents, Any, Any]) -> tuple[np.ndarray, Any]:
            request, noisy, keys, kept = rows
            denoise = self._denoiser(request, steering, pictures, watch)

            def after_step(latents: Array, step: int) -> Array:
                return latents if kept is None else self._keep(drawn_mask, latents, kept[step])

            latents, seen = sample(denoise, sampler, noisy, keys, on_step, after_step)
            pixels, seen = self.fetch((self._decoded(latents), seen))
            # Steps second: `in_batches` wants the pictures on the first axis.
            return pixels, jax.tree.map(lambda *maps: np.stack(maps, axis=1), *seen)

        batches = in_batches(run, (request, start.latents, keys, kept), batch_size)
        pixels, seen = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
        routing, attention = jax.tree.map(lambda maps: np.moveaxis(maps, 1, 0), seen)
        images = [Image.fromarray(picture) for picture in pixels]
        return Result(images, routing, np.asarray(sampler.timesteps), attention)

    def _steering(self, settings: Settings, skip: int) -> Steering:
        return settings.steering(self.model.blocks if self.model else (), skip)

    def _denoiser(
        self,
        request: Request,
        steering: Steering,
        pictures: Sequence[np.ndarray] = (),
        watch: bool = False,
    ) -> Denoiser:
        """Encode a request, and return the function that a sampler asks at every step.

        Args:
            pictures: one for each ControlNet.
        """
        conditions = self._condition(self.params, request, guided=steering.guided)
        # Put on the device once, not at every step.
        conditions = conditions._replace(controls=tuple(map(jnp.asarray, pictures)))
        unseen = conditions
        if steering.subjects is not None:
            unseen = without_subjects(conditions)

        def denoise(latents: Array, timesteps: np.ndarray, step: int) -> tuple[Array, Seen]:
            steered, latents = steering.at(step), self._at_home(latents)
            given = conditions if steering.sees_subjects(step) else unseen
            return self._predict(self.params, given, steered, latents, timesteps, watch=watch)

        return denoise

    def _decoded(self, latents: Latents) -> Array:
        latents = self._at_home(latents)
        shards = len(latents) // latents.sharding.shard_shape(latents.shape)[0]
        return self._decode(self.params, latents, shards=shards)

    def _at_home(self, latents: Latents) -> Array:
        """Put latents where the weights are; anywhere else, the program would compile anew."""
        home = jax.tree.leaves(self.params["unet"])[0].sharding
        if isinstance(home, NamedSharding):  # a weight may be split otherwise
            whole = len(latents) % home.mesh.size == 0
            home = NamedSharding(home.mesh, self.rows if whole else PartitionSpec())
        if home.is_fully_addressable or not getattr(latents, "is_fully_addressable", True):
            return jax.device_put(latents, home)
        own = np.asarray(latents)  # every host has all of them
        return jax.make_array_from_callback(own.shape, home, lambda index: own[index])

    def encode(self, photo: Photo) -> Float[Array, "1 H W C"]:
        """Turn a photo into latents."""
        latent_shape(self.base, *photo.pixels.shape[:2], 1)  # refuses what the VAE cannot take
        return self._encode(self.params, photo.pixels[None])

    def decode(self, latents: Latents) -> list[Image.Image]:
        """Turn latents into pictures."""
        pixels = self.fetch(self._decoded(latents))
        return [Image.fromarray(each) for each in pixels]

    def embed(self, request: Request) -> Float[np.ndarray, "B S D"]:
        """Embed the prompts of a request."""
        return np.asarray(self.fetch(self._embed(self.params, request.input_ids, request.weights)))

    def features(self, request: Request) -> Float[np.ndarray, "B K F"]:
        """Compute the image features of a request's subjects, which are bound to their words."""
        return np.asarray(self.fetch(self._features(self.params, request.subject_images)))

    def invert(
        self,
        request: Request,
        clean: Latents,
        settings: Settings,
        iterations: int = 5,
        *,
        skip: int = 0,
        on_step: OnStep | None = None,
    ) -> list[Float[Array, "B H W C"]]:
        """Find the noise from which DDIM draws given photos, and the latents on the way.

        Args:
            request: what the photos show, one row for each.
            clean: the photos' latents, from `encode`.
            iterations: passes of the fixed-point iteration in each step; more come nearer.
            skip: how many of DDIM's first steps to leave out, at the noisy end.

        Returns:
            The latents before each of DDIM's steps, noisiest first, and then those after the last.
        """
        sampler = ddim_inversion(self.schedule, settings.num_inference_steps, iterations, skip=skip)
        denoise = self._denoiser(request, self._steering(settings, skip))

        def recording(latents: Array, timesteps: np.ndarray, step: int) -> tuple[Array, Array]:
            return denoise(latents, timesteps, step)[0], latents

        # DDIM's inversion adds no noise, so any key will do.
        noise, path = sample(recording, sampler, clean, jax.random.key(0), on_step)
        # Before a step's first row the latents are where the step begins; then come its guesses.
        return [noise, *path[::iterations][::-1]]
