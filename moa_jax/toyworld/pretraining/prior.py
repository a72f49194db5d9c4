"""The last stage of the toy world's pretraining: the U-Net, on latents of the finished autoencoder.

The latents' means and deviations are computed once. The frozen text tower runs in every step,
because it is small. This is plain Stable Diffusion training with the velocity as target.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int32, UInt8

from moa_jax.backbone.stable_diffusion import Component, StableDiffusion
from moa_jax.backbone.vae import VAE
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.figures import image_grid
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.sampling.request import Request
from moa_jax.sampling.settings import Settings
from moa_jax.toyworld.pretraining.denoising import denoising_objective, encode_pictures
from moa_jax.toyworld.pretraining.recipe import UNetRecipe
from moa_jax.toyworld.world.arrays import create
from moa_jax.training.step import Batch, Objective, stream

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
    # The card is written last: without it the latents do not count.
    path.unlink(missing_ok=True)
    pictures = np.load(folder / "pictures.npy", mmap_mode="r")
    module: VAE = vae.module
    size = module.config.downscale
    shape = (len(pictures), *(side // size for side in pictures.shape[1:3]))
    unfinished = folder / f"{LATENTS}.unfinished"
    latents = create(unfinished, (*shape, 2 * module.config.latent_channels), np.float16)

    first = 0
    for encoded in encode_pictures(vae, pictures, mesh):
        latents[first : first + len(encoded)] = encoded
        first += len(encoded)
    latents.flush()
    unfinished.rename(folder / LATENTS)
    path.write_text(json.dumps(card) + "\n", encoding="utf-8")


def unet_objective(
    base: StableDiffusion,
    schedule: NoiseSchedule,
    recipe: UNetRecipe,
    empty: Int32[np.ndarray, " S"],
) -> Objective:
    """Predict the schedule's target from noisy latents and the caption.

    Args:
        base: its U-Net and text tower compute; its parameters are not read.
        empty: token ids of the empty caption.
    """
    unet = base.unet.module

    def predict(params: Any, batch: Batch, *inputs: Array) -> Array:
        return unet.apply({"params": params["unet"]}, *inputs)

    text, dropout = base.text_encoder.module, recipe.condition_dropout
    return denoising_objective(text, predict, schedule, dropout, empty, recipe.described)


def unet_preview(
    base: StableDiffusion,
    recipe: UNetRecipe,
    input_ids: Int32[np.ndarray, "B S"],
    pictures: UInt8[np.ndarray, "B H W 3"],
    empty: Int32[np.ndarray, " S"],
    folder: Path,
) -> Callable[[int, Any], None]:
    """Prepare to draw held-out captions: one column each, with the real picture on top.

    Args:
        base: holds the finished autoencoder; each preview brings the parameters.
    """
    ids, real = input_ids[:CAPTIONS], pictures[:CAPTIONS]
    count = SEEDS * len(ids)
    request = Request(
        input_ids=np.tile(ids, (SEEDS, 1)),
        negative_ids=np.repeat(empty[None], count, axis=0),
        subject_images=np.zeros((count, 1, 1, 1, 3), np.uint8),
        # A position after all tokens: no subject.
        subject_tokens=np.full((count, 1), ids.shape[1], np.int32),
    )
    size, channels = base.unet.config["sample_size"], base.unet.config["in_channels"]
    keys = jax.random.split(stream(recipe.seed, "preview"), count)
    latents = jax.vmap(lambda key: jax.random.normal(key, (size, size, channels)))(keys)
    pipeline = Pipeline(base)
    settings = Settings(recipe.sample_steps, guidance_scale=recipe.guidance_scale)

    def preview(step: int, params: Any) -> None:
        pipeline.params = params
        drawn = pipeline.draw(request, np.asarray(latents), keys, settings)
        folder.mkdir(parents=True, exist_ok=True)
        grid = image_grid([*real, *drawn.images], columns=len(ids))
        grid.resize((grid.width * 2, grid.height * 2)).save(folder / f"step_{step:06d}.png")
        texts = [base.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
        (folder / "captions.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")

    return preview
