"""The last stage of the toy world's pretraining: the U-Net, on latents of the finished autoencoder.

The latents' means and deviations are computed once; the frozen text tower runs in every step, for
it is small. Plain Stable Diffusion training with the velocity as target.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Int32, UInt8
from rich.progress import track

from moa_jax.backbone.stable_diffusion import Component, StableDiffusion
from moa_jax.backbone.vae import VAE
from moa_jax.diffusion.schedule import NoiseSchedule, add_noise, training_target
from moa_jax.figures import image_grid
from moa_jax.pipeline import Pipeline
from moa_jax.request import Request
from moa_jax.toyworld.arrays import create
from moa_jax.toyworld.autoencoder import to_pixels
from moa_jax.toyworld.recipe import UNetRecipe
from moa_jax.training.learning import combine
from moa_jax.training.mesh import place_batch
from moa_jax.training.step import Batch, Numbers, Objective

CHUNK = 256  # pictures encoded at once
CAPTIONS, SEEDS = 8, 3  # of a preview
LATENTS, CARD = "latents.npy", "latents.json"


def write_latents(folder: Path, vae: Component, mesh: Mesh) -> None:
    """Encode a folder's pictures, unless this autoencoder already has.

    Writes latents [count, h, w, 2 C] float16: means and deviations, at the U-Net's scale.
    """
    card = {"vae": vae.fingerprint, "scale": vae.config["scaling_factor"]}
    path = folder / CARD
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) == card:
        return
    path.unlink(missing_ok=True)
    pictures = np.load(folder / "pictures.npy", mmap_mode="r")
    module: VAE = vae.module
    size = module.config.downscale
    shape = (len(pictures), *(side // size for side in pictures.shape[1:3]))
    unfinished = folder / f"{LATENTS}.unfinished"
    latents = create(unfinished, (*shape, 2 * module.config.latent_channels), np.float16)

    @jax.jit
    def encode(params: Any, batch: Batch) -> Array:
        pixels = to_pixels(batch["pictures"])
        mean, log_variance = module.apply({"params": params}, pixels, method="encode")
        return card["scale"] * jnp.concatenate([mean, jnp.exp(0.5 * log_variance)], axis=-1)

    for first in track(range(0, len(pictures), CHUNK), "encoding the pictures"):
        part = np.asarray(pictures[first : first + CHUNK])
        padded = np.pad(part, [(0, CHUNK - len(part)), (0, 0), (0, 0), (0, 0)])
        encoded = encode(vae.params, place_batch(mesh, {"pictures": padded}))
        latents[first : first + len(part)] = np.asarray(encoded)[: len(part)]
    latents.flush()
    unfinished.rename(folder / LATENTS)
    path.write_text(json.dumps(card) + "\n", encoding="utf-8")


def unet_batch(
    arrays: Mapping[str, np.ndarray], rows: Int[np.ndarray, " B"]
) -> dict[str, np.ndarray]:
    """Read latents and captions."""
    return {name: arrays[name][rows] for name in ("latents", "input_ids")}


def unet_objective(
    base: StableDiffusion,
    schedule: NoiseSchedule,
    recipe: UNetRecipe,
    empty: Int32[np.ndarray, " S"],
) -> Objective:
    """Predict the schedule's target from noisy latents and the caption.

    Args:
        base: whose U-Net and text tower compute; its parameters are not read.
        empty: token ids of no caption.
    """
    text, unet = base.text_encoder.module, base.unet.module

    def objective(trained: Any, frozen: Any, batch: Batch, keys: Array) -> tuple[Array, Numbers]:
        params = combine(trained, frozen)
        mean, deviation = jnp.split(batch["latents"].astype(jnp.float32), 2, axis=-1)

        def draw(key: Array) -> tuple[Array, Array, Array, Array]:
            encoding, noise, time, coin = jax.random.split(key, 4)
            return (
                jax.random.normal(encoding, mean.shape[1:]),
                jax.random.normal(noise, mean.shape[1:]),
                jax.random.randint(time, (), 0, schedule.num_train_timesteps),
                jax.random.bernoulli(coin, recipe.condition_dropout),
            )

        encoding, noise, timesteps, dropped = jax.vmap(draw)(keys)
        latents = mean + deviation * encoding
        ids = jnp.where(dropped[:, None], jnp.asarray(empty)[None], batch["input_ids"])
        context = text.apply({"params": params["text_encoder"]}, ids)
        noisy = add_noise(schedule, latents, noise, timesteps)
        prediction = unet.apply({"params": params["unet"]}, noisy, timesteps, context)
        target = training_target(schedule, latents, noise, timesteps)
        loss = jnp.mean(jnp.square(prediction - target))
        return loss, {"loss/total": loss}

    return objective


def unet_preview(
    base: StableDiffusion,
    recipe: UNetRecipe,
    input_ids: Int32[np.ndarray, "B S"],
    pictures: UInt8[np.ndarray, "B H W 3"],
    empty: Int32[np.ndarray, " S"],
    folder: Path,
) -> Callable[[int, Any], None]:
    """Prepare to draw held-out captions: a column each, the real picture on top.

    Args:
        base: with the finished autoencoder; parameters come with each preview.
    """
    ids, real = input_ids[:CAPTIONS], pictures[:CAPTIONS]
    count = SEEDS * len(ids)
    request = Request(
        input_ids=np.tile(ids, (SEEDS, 1)),
        negative_ids=np.repeat(empty[None], count, axis=0),
        subject_images=np.zeros((count, 1, 1, 1, 3), np.uint8),
        subject_tokens=np.full((count, 1), ids.shape[1], np.int32),
    )
    size, channels = base.unet.config["sample_size"], base.unet.config["in_channels"]
    keys = jax.random.split(jax.random.key(recipe.seed), count)
    latents = jax.vmap(lambda key: jax.random.normal(key, (size, size, channels)))(keys)
    pipeline = Pipeline(base)

    def preview(step: int, params: Any) -> None:
        pipeline.params = params
        drawn = pipeline.draw(
            request, np.asarray(latents), keys, recipe.sample_steps, recipe.guidance_scale
        )
        folder.mkdir(parents=True, exist_ok=True)
        grid = image_grid([*real, *drawn.images], columns=len(ids))
        grid.resize((grid.width * 2, grid.height * 2)).save(folder / f"step_{step:06d}.png")
        texts = [base.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
        (folder / "captions.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")

    return preview
