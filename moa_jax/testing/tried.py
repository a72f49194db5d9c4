"""A variant under test, in a small random Stable Diffusion, with a batch of two pictures."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.stable_diffusion import Component, StableDiffusion
from moa_jax.config import MethodConfig
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.method.model import MoA, Observations, build
from moa_jax.method.trained import is_added, leaf_paths
from moa_jax.method.variant import resolve
from moa_jax.toyworld.pretraining.architecture import TOY_SCHEDULER, make_module, toy_networks
from moa_jax.toyworld.pretraining.recipe import NetworksRecipe

SIZES = NetworksRecipe(
    size=32,  # latents of 4x4
    caption_length=8,
    vae_width=8,
    latent_channels=4,
    unet_width=16,
    unet_inner_width=24,
    unet_heads=2,
    text_width=16,
    text_layers=1,
    text_heads=2,
    vision_width=16,
    vision_layers=1,
    vision_heads=2,
    vision_patch=16,
    projection=8,
)
VOCABULARY = {"vocab_size": 32, "bos_token_id": 30, "eos_token_id": 31}
SUBJECTS = 2


def small_stable_diffusion() -> StableDiffusion:
    """Make a Stable Diffusion with random weights, so that no layer is the zero function."""
    configs = toy_networks(SIZES)
    configs["text_encoder"] |= VOCABULARY
    random = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> Array:
        # 1 / sqrt(inputs) keeps the size of the activations from layer to layer.
        spread = 0.1 if leaf.ndim < 2 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(spread * random.standard_normal(leaf.shape), jnp.float32)

    components = {}
    for network, config in configs.items():
        module = make_module(network, config)
        params = jax.tree.map(draw, parameter_shapes(module))
        components[network] = Component(module, params, config, network)
    return StableDiffusion(
        **components, tokenizer=None, scheduler_config=TOY_SCHEDULER, path=Path(), name="small"
    )


class Tried:
    """A variant built into the small Stable Diffusion, with a batch of two pictures."""

    def __init__(self, name: str, method: Mapping[str, Any]) -> None:
        """Build it.

        Args:
            name: the variant's name.
            method: values of the config's section `method`.
        """
        self.name, self.variant = name, resolve(name)
        self.method = MethodConfig(
            **{
                "mixture": name,
                "max_subjects": SUBJECTS,
                "image_encoder_layers": 0,
                "router_loss_skip": 0,
                "router_loss_weight": 1.0,
                "object_loss_weight": 1.0,
                "initial_personalized_weight": 0.4,
                **method,
            }
        )
        self.base = small_stable_diffusion()
        self.schedule = NoiseSchedule.from_config(TOY_SCHEDULER)
        self.model, self.params = self.build(jax.random.key(0))

    def build(self, key: Array | None) -> tuple[MoA, Any]:
        """Build the variant; without a key, the parameters that it adds are shapes."""
        return build(self.base, self.method, dtype=jnp.float32, key=key)

    @cached_property
    def batch(self) -> dict[str, Any]:
        """Two pictures; the first has two subjects, the second has one."""
        random = np.random.default_rng(1)
        side, latent = SIZES.size, SIZES.size // 8
        masks = np.zeros((2, SUBJECTS, side, side), np.float32)
        masks[0, 0, 4:20, 2:12], masks[0, 1, 8:30, 18:30], masks[1, 0, 6:28, 8:24] = 1, 1, 1
        batch = {
            # Encoded pictures: four channels are means, four are standard deviations.
            "latents": random.standard_normal((2, latent, latent, 8)).astype(np.float32) * 0.3,
            "features": self.features,
            "input_ids": np.array([[30, 4, 5, 6, 7, 8, 31, 31], [30, 9, 4, 3, 2, 31, 31, 31]]),
            "subject_tokens": self.tokens,
            "subject_present": self.tokens < 8,
            "masks": masks,
            "progress": np.full(2, 0.5, np.float32),
        }
        return jax.tree.map(jnp.asarray, batch)

    tokens = np.array([[1, 4], [2, 8]], np.int32)  # 8: no subject
    nobody = np.full((2, SUBJECTS), 8, np.int32)
    timesteps = np.array([300, 700], np.int32)

    @cached_property
    def features(self) -> Array:
        """The features that the variant finds in random portraits."""
        side = SIZES.size
        shape = (2, SUBJECTS, side, side, 3)
        pictures = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
        return jax.jit(self.model.encode_subjects)(self.params, pictures)

    @cached_property
    def text(self) -> Array:
        """The captions, embedded."""
        return self.model.encode_text(self.params, self.batch["input_ids"])

    @cached_property
    def moved(self) -> Any:
        """The parameters, with all that MoA added moved away from its start."""
        paths = leaf_paths(self.params)
        keys = dict(zip(paths, jax.random.split(jax.random.key(3), len(paths)), strict=True))

        def move(path: str, leaf: Array) -> Array:
            if not is_added(path) or not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            return leaf + 0.3 * jax.random.normal(keys[path], leaf.shape, leaf.dtype)

        structure = jax.tree.structure(self.params)
        return structure.unflatten([move(path, leaf) for path, leaf in paths.items()])

    @cached_property
    def _denoise(self) -> Callable[..., tuple[Array, Observations]]:
        return jax.jit(self.model.denoise)

    def predict(
        self, params: Any, tokens: np.ndarray, dial: float = 1.0, mirrored: bool = False
    ) -> tuple[np.ndarray, Observations]:
        """Predict for the batch, as in training.

        Args:
            dial: of the added experts, see `turn`.
            mirrored: flip the first picture's latents; the second picture stays the same.
        """
        latents = self.batch["latents"][..., :4]
        if mirrored:
            latents = latents.at[0].set(latents[0, ::-1])
        prediction, seen = self._denoise(
            params,
            latents,
            jnp.asarray(self.timesteps),
            self.text,
            self.features,
            jnp.asarray(tokens),
            dial=jnp.full(len(self.model.blocks), dial),
            keys=jax.random.split(jax.random.key(4), 2),
            progress=jnp.full(2, 0.5),
        )
        return np.asarray(prediction), seen

    @cached_property
    def prior(self) -> np.ndarray:
        """What the plain U-Net predicts for the batch."""
        unet, latents = self.base.unet, self.batch["latents"][..., :4]
        apply = jax.jit(unet.module.apply)
        return np.asarray(apply({"params": unet.params}, latents, self.timesteps, self.text))
