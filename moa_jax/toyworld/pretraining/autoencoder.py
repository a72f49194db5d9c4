"""The first stage of the toy world's pretraining: pictures to latents and back.

Absolute errors keep edges sharp. Squared errors bring small things (eyes, a mouth) before their
place is certain. A little of the KL divergence keeps the latents in one place. There is no
adversary and no network that judges. Source of the form: Latent Diffusion (arXiv 2112.10752).
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, UInt8

from moa_jax.backbone.vae import VAE
from moa_jax.figures import image_grid
from moa_jax.method.trained import combine
from moa_jax.toyworld.pretraining.architecture import first_params
from moa_jax.toyworld.pretraining.recipe import VAERecipe
from moa_jax.toyworld.world.arrays import InTurn, RowBatches
from moa_jax.training.step import Batch, Numbers, Objective

FIRST_LOG_VARIANCE = -6.0  # the latents start nearly without noise
SHOWN = 16  # pictures in a preview


def vae_params(module: VAE, random: np.random.Generator) -> dict[str, Any]:
    """Draw an autoencoder's first weights."""
    params = first_params(module, random)
    bias = params["quant_conv"]["bias"]
    params["quant_conv"]["bias"] = bias.at[len(bias) // 2 :].set(FIRST_LOG_VARIANCE)
    return params


def vae_objective(module: VAE, recipe: VAERecipe) -> Objective:
    """Reconstruct pictures from noisy latents.

    A batch holds `pictures`, uint8, and, if people weigh more than the rest, their `masks`.
    """

    def objective(trained: Any, frozen: Any, batch: Batch, keys: Array) -> tuple[Array, Numbers]:
        params = {"params": combine(trained, frozen)["vae"]}
        pixels = to_pixels(batch["pictures"])
        encoded = module.apply(params, pixels, method="encode")
        mean, log_variance = (part.astype(jnp.float32) for part in encoded)
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        latents = mean + jnp.exp(0.5 * log_variance) * noise
        error = module.apply(params, latents, method="decode").astype(jnp.float32) - pixels
        if recipe.people_weight != 1.0:
            people = jnp.any(batch["masks"], axis=1)[..., None]
            weight = jnp.where(people, recipe.people_weight, 1.0)
            error = error * weight / jnp.mean(weight)  # a mean weight of 1 keeps the loss's scale
        terms = {
            "absolute": jnp.mean(jnp.abs(error)),
            "square": jnp.mean(jnp.square(error)),
            "edges": edge_error(error),
            "kl": 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance),
        }
        weights = {
            "square": recipe.square_weight,
            "edges": recipe.edge_weight,
            "kl": recipe.kl_weight,
        }
        total = sum(weights.get(name, 1.0) * term for name, term in terms.items())
        numbers = {f"loss/{name}": term for name, term in terms.items()}
        return total, {"loss/total": total, **numbers}

    return objective


def to_pixels(pictures: Num[Array, "*B H W 3"]) -> Float[Array, "*B H W 3"]:
    """Bring [0, 255] to [-1, 1]."""
    return pictures.astype(jnp.float32) / 127.5 - 1.0


def edge_error(error: Float[Array, "B H W C"]) -> Float[Array, ""]:
    """Average how much the error differs between neighbours: a constant error costs nothing."""
    down, right = error[:, 1:] - error[:, :-1], error[:, :, 1:] - error[:, :, :-1]
    return 0.5 * (jnp.mean(jnp.abs(down)) + jnp.mean(jnp.abs(right)))


def vae_batches(arrays: Mapping[str, np.ndarray], recipe: VAERecipe) -> InTurn:
    """Give crops for `recipe.crop_steps` steps, then entire pictures."""

    def crops(rows: Int[np.ndarray, " B"]) -> Mapping[str, np.ndarray]:
        # By the rows alone, so that a resumed run cuts the same crops.
        random = np.random.default_rng([recipe.seed, *rows.tolist()])
        drawn = [
            crop(arrays["pictures"][row], arrays["masks"][row], recipe.crop_size, random, turn % 2)
            for row in rows
            for turn in range(recipe.crops)
        ]
        return {"pictures": np.stack(drawn)}

    def whole(rows: Int[np.ndarray, " B"]) -> Mapping[str, np.ndarray]:
        return {"pictures": arrays["pictures"][rows]}

    of_rows = partial(
        RowBatches, count=len(arrays["pictures"]), batch_size=recipe.batch_size, seed=recipe.seed
    )
    return InTurn(of_rows(crops), of_rows(whole), recipe.crop_steps)


def crop(
    picture: UInt8[np.ndarray, "H W 3"],
    masks: Bool[np.ndarray, "K H W"],
    size: int,
    random: np.random.Generator,
    anywhere: bool | int,
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut a square out of a picture: anywhere, or about the head of one of its people."""
    limits = np.array(picture.shape[:2]) - size
    corner = random.integers(0, limits + 1)
    if not anywhere:
        seen = masks[masks.any(axis=(1, 2))]
        mask = seen[random.integers(len(seen))]
        top = np.flatnonzero(mask.any(axis=1))[0]  # where the head is
        middle = np.flatnonzero(mask.any(axis=0)).mean()
        corner = np.array([top, middle - size / 2]) + random.integers(-size // 4, size // 4 + 1, 2)
    row, column = np.clip(corner, 0, limits).astype(int)
    return picture[row : row + size, column : column + size]


def latents_scale(module: VAE, params: Any, pictures: Num[np.ndarray, "B H W 3"]) -> float:
    """Measure the factor that gives the latents of some pictures unit variance."""
    encode = jax.jit(
        lambda params, pixels: module.apply({"params": params}, pixels, method="encode")
    )
    mean, log_variance = encode(params, to_pixels(jnp.asarray(pictures)))
    # A latent is its mean plus noise, so the two variances add up.
    variance = jnp.var(mean) + jnp.mean(jnp.exp(log_variance))
    return float(1.0 / jnp.sqrt(variance))


def vae_preview(
    module: VAE, pictures: Num[np.ndarray, "B H W 3"], folder: Path
) -> Callable[[int, Any], dict[str, float]]:
    """Prepare to reconstruct held-out pictures: a grid, with originals above, and the error."""
    run = jax.jit(lambda params, pixels: module.apply({"params": params}, pixels))
    pixels = to_pixels(jnp.asarray(pictures))

    def preview(step: int, params: Any) -> dict[str, float]:
        drawn = jnp.clip(run(params["vae"], pixels), -1.0, 1.0)
        images = np.asarray(jnp.round((drawn + 1.0) * 127.5)).astype(np.uint8)
        rows = [
            image
            for first in range(0, min(SHOWN, len(images)), 8)
            for image in (*pictures[first : first + 8], *images[first : first + 8])
        ]
        folder.mkdir(parents=True, exist_ok=True)
        grid = image_grid(rows, columns=8)
        grid.resize((grid.width * 2, grid.height * 2)).save(folder / f"step_{step:06d}.png")
        squared = np.mean(np.square(images.astype(np.float32) - pictures))
        return {
            "held_out/pixels": float(jnp.mean(jnp.abs(drawn - pixels))),
            "held_out/psnr": float(10 * np.log10(255**2 / max(squared, 1e-9))),
        }

    return preview
