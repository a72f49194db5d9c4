"""The three losses of MoA, as functions of arrays.

Source: MoA (arXiv 2404.11565), with the masked and localisation losses of FastComposer's released
code (arXiv 2305.10431). K is the number of subjects in a picture. A mask is 1 on its subject, and
its edges may be soft.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

EPSILON = 1e-5  # FastComposer's, against empty masks


def masked_denoising_loss(
    prediction: Float[Array, "B H W C"],
    target: Float[Array, "B H W C"],
    mask: Float[Array, "B H W"],
    masked: Bool[Array, " B"],
) -> Float[Array, ""]:
    """Measure the denoising error; some pictures count on their subjects only.

    Source: FastComposer's released code, which draws `masked` once a batch; a draw for each picture
    is our choice.

    Args:
        mask: the union of the subjects, at the latents' size.
        masked: whether a picture counts on the mask alone.

    Returns:
        The mean squared error over everything; of a masked picture, pixels outside the mask count
        as zero.
    """
    weight = jnp.where(masked[:, None, None], mask, 1.0)[..., None]
    error = (prediction - target).astype(jnp.float32) * weight
    return jnp.mean(jnp.square(error))


def union_mask(masks: Float[Array, "B K H W"], size: tuple[int, int]) -> Float[Array, "B h w"]:
    """Unite the subjects' masks at the latents' size.

    Source: FastComposer's released code (bilinear, not antialiased).
    """
    union = jnp.max(masks, axis=1)
    return jax.image.resize(union, (union.shape[0], *size), "linear", antialias=False)


def mean_routing(
    maps: Sequence[Float[Array, "B _h _w"]], size: tuple[int, int]
) -> Float[Array, "B H W"]:
    """Average an expert's weight over layers, each resized (bilinear) to rows and columns `size`.

    Source: MoA; the resizing is our choice.
    """
    resized = [jax.image.resize(layer, (layer.shape[0], *size), "linear") for layer in maps]
    return jnp.mean(jnp.stack(resized), axis=0)


def router_loss(prior: Float[Array, "B H W"], mask: Float[Array, "B H W"]) -> Float[Array, ""]:
    """Keep the background on the prior; the foreground is free.

    Source: MoA. The norm as a mean over pixels is our choice.

    Args:
        prior: the prior's weight, mean over layers, in [0, 1].
        mask: the union of the subjects, at the same size.

    Returns:
        Mean squared weight that other experts take on the background, in [0, 1].
    """
    return jnp.mean(jnp.square((1 - mask) * (1 - prior)))


def router_loss_by_layer(
    maps: Sequence[Float[Array, "B _h _w"]], mask: Float[Array, "B H W"]
) -> Float[Array, ""]:
    """Keep the background of every layer on the prior, whatever the other layers do [ours].

    `router_loss` takes the mean over all layers and pixels. It is small if a few layers leave the
    prior and the others make up for them, or if subjects are large. Here each layer has its own
    loss, and it is a mean over the background alone.

    Args:
        maps: the prior's weight in each layer, in [0, 1].
        mask: the union of the subjects, resized (bilinear, antialiased) to each layer's size.

    Returns:
        Mean squared weight of the other experts, in [0, 1]: over a picture's background first, then
        over pictures and layers.
    """

    def of_layer(prior: Float[Array, "B h w"]) -> Float[Array, ""]:
        background = 1 - jax.image.resize(mask, prior.shape, "linear")
        squared = jnp.square(background * (1 - prior))
        total = jnp.sum(squared, axis=(1, 2))
        # Divided by squares too, so that soft edges leave the quotient in [0, 1].
        return jnp.mean(total / (jnp.sum(jnp.square(background), axis=(1, 2)) + EPSILON))

    return jnp.mean(jnp.stack([of_layer(layer) for layer in maps]))


def object_loss(
    attention: Sequence[Float[Array, "B N _h _w K"]],
    masks: Float[Array, "B K H W"],
    present: Bool[Array, "B K"],
) -> Float[Array, ""]:
    """Pull each subject's word to its subject, in the personalized expert's cross-attention.

    Source: FastComposer's released code, its balanced L1; that it reads the personalized expert is
    our choice.

    Args:
        attention: for each layer, the weight of each subject's token at every pixel.
        masks: one for each subject, at any size; resized (bilinear, antialiased) to each layer's.
        present: which of the K subjects there are.

    Returns:
        Mean attention on the background minus mean attention on the subject, in [-1, 1]: first
        over a picture's subjects, then over heads, pictures and layers.
    """
    layers = [_object_loss_of_layer(weights, masks, present) for weights in attention]
    return jnp.mean(jnp.stack(layers))


def _object_loss_of_layer(
    weights: Float[Array, "B N h w K"], masks: Float[Array, "B K H W"], present: Bool[Array, "B K"]
) -> Float[Array, ""]:
    rows, columns = weights.shape[2:4]
    resized = jax.image.resize(masks, (*masks.shape[:2], rows, columns), "linear")
    subject = jnp.moveaxis(resized, 1, -1)[:, None]
    # Without an absolute value, as FastComposer released it.
    difference = _mean_over(weights, 1 - subject) - _mean_over(weights, subject)
    counted = present.astype(jnp.float32)[:, None, :]
    balanced = jnp.sum(difference * counted, axis=-1) / (jnp.sum(counted, axis=-1) + EPSILON)
    return jnp.mean(balanced)


def _mean_over(
    weights: Float[Array, "B N h w K"], region: Float[Array, "B 1 h w K"]
) -> Float[Array, "B N K"]:
    total = jnp.sum(weights * region, axis=(2, 3))
    return total / (jnp.sum(region, axis=(2, 3)) + EPSILON)
