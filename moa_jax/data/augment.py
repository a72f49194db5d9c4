"""Crop and augment pixels: the target picture together with its masks, and the subject pictures.

Source: FastComposer's released transforms [FC], with Pillow; three differences are ours: a portrait
target is cropped to its centre as a landscape one is (FC pads its sides), a target may have another
shape than the square, and there is no elastic distortion. Every random number comes from the
generator passed in. Nothing here reads captions.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from moa_jax.data.buckets import Size
from moa_jax.data.images import Box

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


def crop_target(
    image: Image.Image, masks: Sequence[Bool[np.ndarray, "H W"]], size: Size, flip: bool
) -> tuple[UInt8[np.ndarray, "height width 3"], list[Bool[np.ndarray, "height width"]]]:
    """Take the centre of a picture and of its masks: as much as the shape of a size leaves.

    Resizing a picture until it covers the size and then cropping the centre amounts to one
    resampling of a box. It is done as one, so that the picture and its masks share exactly the same
    box. Masks are resized by nearest neighbour, so their edges stay hard.

    Args:
        size: width and height of the result, in pixels.
    """
    wide, high = image.size
    # Of a square both quotients are whole numbers; else a side of the box may be a fraction.
    wide, high = min(wide, high * size[0] / size[1]), min(high, wide * size[1] / size[0])
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    box = (left, top, left + wide, top + high)
    pixels = np.asarray(image.resize(size, BILINEAR, box=box))
    cropped = [np.asarray(Image.fromarray(mask).resize(size, NEAREST, box=box)) for mask in masks]
    if flip:
        return pixels[:, ::-1], [mask[:, ::-1] for mask in cropped]
    return pixels, cropped


def cut_out(
    image: Image.Image, mask: Bool[np.ndarray, "H W"], box: Box, random: np.random.Generator
) -> Image.Image:
    """Crop a subject to its box and replace its background by uniform noise."""
    left, top, right, bottom = box
    subject = np.asarray(image.crop(box))
    noise = random.integers(0, 256, subject.shape, np.uint8)
    inside = mask[top:bottom, left:right, None]
    return Image.fromarray(np.where(inside, subject, noise))


def prepare_subject(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Pad a subject's picture to a square and resize it to the image encoder's input."""
    return np.asarray(_pad_and_resize(image, size))


def augment_subject(
    image: Image.Image, size: int, random: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """Prepare a subject's picture with random changes, so that identity is learnt, not pixels.

    Source: FastComposer's released transforms; the probabilities and strengths are its.
    """
    if random.random() < 0.5:
        image = _zoom_in(image)
    image = _pad_and_resize(image, size)
    if random.random() < 0.75:
        image = image.rotate(random.uniform(-30, 30), BILINEAR)  # degrees; corners turn black
    if random.random() < 0.5:
        image = _jitter_colour(image, 0.5, random)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))  # sigma, pixels
    if random.random() < 0.1:
        image = ImageOps.grayscale(image).convert("RGB")
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    return np.asarray(image)


def _zoom_in(image: Image.Image) -> Image.Image:
    """Keep the top square of a tall subject; of a person this is the head and shoulders.

    FC first enlarges by a random factor of 1 to 2 and then keeps the top square of the enlarged
    picture. The factor cancels out, because the result is resized to one size anyway.
    """
    return image.crop((0, 0, image.width, min(image.width, image.height)))


def _pad_and_resize(image: Image.Image, size: int) -> Image.Image:
    """Centre a picture on a black square and resize the square."""
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((size, size), BILINEAR)


def _jitter_colour(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Change brightness, contrast, saturation and hue, in a random order.

    Args:
        strength: factors are drawn from 1 ± strength, the hue's turn from ± strength of a circle.
    """
    # None stands for the hue, for which Pillow has no enhancer.
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, None)
    for change in random.permutation(len(enhancers)):
        amount = random.uniform(-strength, strength)
        enhancer = enhancers[change]
        image = (
            _turn_hue(image, amount) if enhancer is None else enhancer(image).enhance(1 + amount)
        )
    return image


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    # Pillow divides the circle of hues into 256 levels.
    turned = hue.point([(level + round(turn * 256)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
