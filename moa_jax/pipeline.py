"""From a checkpoint, a prompt and its subjects to new pictures: load, check, draw.

`sample.py`, the demo and the previews of a training run all call this. Without MoA weights it is
plain Stable Diffusion. Knows no command line and writes no files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from moa_jax.backbone.attend import choose_attend
from moa_jax.backbone.stable_diffusion import StableDiffusion, load_stable_diffusion
from moa_jax.diffusion import SAMPLERS, NoiseSchedule
from moa_jax.errors import InputError
from moa_jax.generation import generate
from moa_jax.method.model import MoA, build
from moa_jax.method.weights import Identity, load_moa, read_moa_card
from moa_jax.request import Picture, Request, make_request, repeat


@dataclass(frozen=True, eq=False)
class Result:
    """What a pipeline drew.

    Attributes:
        images: the pictures.
        routing: of each mixture layer, by its path, the personalized expert's weight at every step
            [steps, B, h, w], in [0, 1]; empty without MoA.
        timesteps: the noise schedule's timestep of each step, noisiest first.
    """

    images: list[Image.Image]
    routing: dict[str, np.ndarray]
    timesteps: np.ndarray


class Pipeline:
    """Draw pictures with Stable Diffusion, or with MoA on top of it.

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
    ) -> None:
        """Wrap loaded networks; `from_pretrained` loads them.

        Args:
            params: of `model`; the base's own by default.
            max_subjects: how many subjects a prompt may have.
        """
        networks = {"unet": base.unet, "text_encoder": base.text_encoder, "vae": base.vae}
        self.base = base
        self.model = model
        self.params = params or {name: network.params for name, network in networks.items()}
        self.max_subjects = max_subjects
        self.schedule = NoiseSchedule.from_config(base.scheduler_config)
        self.fetch: Callable[[Any], Any] = jax.device_get
        self._on_step: Callable[[int], None] | None = None
        static = ("sampler", "num_inference_steps", "guided", "on_step")
        program = partial(generate, base, model, self.schedule)
        self._generate = jax.jit(program, static_argnames=static)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        moa: str | Path | None = None,
        dtype: Any = None,
        *,
        variant: str | None = None,
        image_encoder: str | Path | None = None,
        attention: str = "auto",
    ) -> "Pipeline":
        """Load a diffusers folder, and MoA weights trained on it.

        Args:
            model: the folder of a Stable Diffusion 1.x or 2.x checkpoint, or its hub id.
            moa: the folder with `moa.safetensors` and `moa.json`.
            dtype: of the computation and the weights, e.g. "bfloat16"; by default bfloat16 on TPU
                and GPU, float32 on a CPU.
            variant: "fp16" reads `*.fp16.safetensors`.
            image_encoder: a CLIP folder or hub id; by default what the MoA weights were trained
                with.
            attention: "auto", or one of the implementations in `moa_jax.backbone.attend`.

        Raises:
            InputError: something is missing, damaged, unsupported or does not belong together.
        """
        dtype = choose_dtype(dtype)
        attend = choose_attend(attention, jax.default_backend())
        load = partial(load_stable_diffusion, model, dtype, variant, attend=attend)
        if moa is None:
            return cls(load(image_encoder))
        card = read_moa_card(moa)
        trained_with = card.config.model.image_encoder
        encoder = image_encoder or trained_with
        base = load(encoder)
        mixed, params = build(base, card.config.method, dtype=dtype, key=jax.random.key(0))
        params = load_moa(moa, params, Identity.of(base, encoder and str(encoder)))
        params = jax.tree_util.tree_map_with_path(partial(_to_dtype, dtype), params)
        return cls(base, mixed, params, card.config.method.max_subjects)

    @property
    def dtype(self) -> np.dtype:
        """What the networks compute in."""
        return jnp.dtype(self.base.unet.module.dtype)

    @property
    def downscale(self) -> int:
        """Pixels along one side of a latent."""
        return self.base.vae.module.config.downscale

    def __call__(
        self,
        prompt: str,
        subjects: Sequence[Picture] = (),
        negative_prompt: str = "",
        num_images: int = 1,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        sampler: str = "ddim",
        seed: int = 0,
        latents: Float[np.ndarray, "B H W C"] | Float[Array, "B H W C"] | None = None,
        height: int | None = None,
        width: int | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Result:
        """Draw pictures of a prompt.

        Args:
            prompt: with `<|image|>` after each word that one of `subjects` personalizes.
            subjects: a picture of each, in the order of the markers.
            guidance_scale: of classifier-free guidance; 1 or less draws without it.
            seed: picture i of a seed is the same whatever `num_images` is.
            latents: standard normal draws [num_images, height/8, width/8, 4] to start from.
            height: in pixels; the checkpoint's own size by default, as is `width`.
            on_step: told the index of each step when it is done.

        Raises:
            InputError: an argument that cannot be served, named with its value and the remedy.
        """
        check_choice("sampler", sampler, SAMPLERS)
        if num_images < 1:
            raise InputError(f"num_images={num_images}: must be 1 or more")
        encoder = self.base.image_encoder
        request = make_request(
            self.base.tokenizer,
            prompt,
            subjects,
            negative_prompt,
            image_size=encoder and encoder.module.config.image_size,
            max_subjects=self.max_subjects if self.model else 0,
        )
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(num_images))
        shape = latent_shape(self.base, height, width, num_images)
        if latents is None:
            latents = jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)
        elif latents.shape != shape:
            raise InputError(f"latents has shape {latents.shape}: these pictures need {shape}")
        return self.draw(
            repeat(request, num_images),
            latents,
            keys,
            num_inference_steps,
            guidance_scale,
            sampler,
            on_step,
        )

    def draw(
        self,
        request: Request,
        latents: Float[Array, "B H W C"] | Float[np.ndarray, "B H W C"],
        keys: Any,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        sampler: str = "ddim",
        on_step: Callable[[int], None] | None = None,
    ) -> Result:
        """Draw a batch of prepared requests, one compiled program for each shape and step count.

        Args:
            latents: standard normal draws.
            keys: a random key for each picture, for samplers that add noise.
        """
        self._on_step = on_step
        pixels, routing = self._generate(
            self.params,
            request,
            jnp.asarray(latents),
            keys,
            guidance_scale,
            sampler=sampler,
            num_inference_steps=num_inference_steps,
            guided=guidance_scale > 1,
            on_step=on_step and self._report,
        )
        pixels, routing = self.fetch((pixels, routing))
        images = [Image.fromarray(picture) for picture in pixels]
        jax.effects_barrier()  # every on_step has been told
        plan = SAMPLERS[sampler](self.schedule, num_inference_steps)
        return Result(images, routing, plan.timesteps)

    def _report(self, step: int) -> None:
        """Tell whoever listens now; compiled once, whoever that is."""
        if self._on_step is not None:
            self._on_step(step)


def latent_shape(
    base: StableDiffusion, height: int | None, width: int | None, num_images: int
) -> tuple[int, int, int, int]:
    """Give the shape of the latents of some pictures.

    Args:
        height: in pixels; None: the checkpoint's own.
        width: likewise.

    Raises:
        InputError: a side that is not a multiple of the VAE's factor.
    """
    native, factor = base.unet.config.get("sample_size") or 64, base.vae.module.config.downscale
    rows, columns = native if isinstance(native, (list, tuple)) else (native, native)
    sides = []
    for name, pixels, default in (("height", height, rows), ("width", width, columns)):
        pixels = default * factor if pixels is None else pixels
        if pixels < 1 or pixels % factor:
            raise InputError(
                f"{name}={pixels}: must be a positive multiple of {factor}, e.g. "
                f"{max(1, round(pixels / factor)) * factor}"
            )
        sides.append(pixels // factor)
    return num_images, *sides, base.vae.module.config.latent_channels


def choose_dtype(dtype: Any = None) -> np.dtype:
    """Take the dtype asked for, or bfloat16 where the hardware computes in it: not on a CPU."""
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(dtype)


def _to_dtype(dtype: Any, path: Any, leaf: Array) -> Array:
    """Store what is computed in `dtype` in it; routers compute in float32."""
    return leaf if "router" in jax.tree_util.keystr(path) else leaf.astype(dtype)


def check_choice(name: str, value: str, choices: Mapping[str, Any]) -> None:
    """Refuse a name that is none of the choices.

    Raises:
        InputError: listing them.
    """
    if value not in choices:
        raise InputError(f"{name}={value!r}: must be one of {', '.join(sorted(choices))}")
