"""How well a picture fits its prompt, by the two towers of a complete CLIP.

Source: Hessel et al., "CLIPScore" (arXiv 2104.08718), without its factor and its cut at 0: the
cosine of the picture's features and the prompt's, as FastComposer reports it.

A base of Stable Diffusion has the text tower without the projection that CLIP compares by, so a
complete CLIP is asked for, such as openai/clip-vit-large-patch14.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from PIL import Image, ImageOps

from moa_jax.backbone.clip import (
    TextConfig,
    TextEncoder,
    VisionConfig,
    VisionEncoder,
    normalize_pixels,
)
from moa_jax.backbone.folder import read_config, resolve
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.tokenizer import load_tokenizer
from moa_jax.backbone.weights import load_params
from moa_jax.errors import InputError

AT_ONCE = 16  # pictures, or prompts
TEXT_KEYS = ("text_model.", "text_projection.")
VISION_KEYS = ("vision_model.", "visual_projection.")


class ClipScore:
    """Compare pictures with words."""

    def __init__(self, folder: str | Path) -> None:
        """Read a complete CLIP.

        Args:
            folder: a folder of transformers' CLIPModel with its tokenizer, or its hub id.

        Raises:
            InputError: something is missing or damaged, or it is not a complete CLIP.
        """
        path = resolve(folder)
        config = read_config(path)
        if config.get("model_type") != "clip" or not config.get("text_config"):
            raise InputError(
                f"--clip {str(folder)!r}: needs a complete CLIP, with both towers and their "
                "projections, such as openai/clip-vit-large-patch14"
            )
        width, kinds = config.get("projection_dim", 512), ("text", "vision")
        text, vision = (
            {**config[f"{kind}_config"], "model_type": f"clip_{kind}_model"} for kind in kinds
        )
        self._text = TextEncoder(TextConfig.from_dict(_trimmed(text)))
        self._vision = VisionEncoder(VisionConfig.from_dict({**vision, "projection_dim": width}))
        shapes = dict(parameter_shapes(self._text))
        projection = (self._text.config.hidden_size, width)
        shapes["text_projection"] = {"kernel": jax.ShapeDtypeStruct(projection, jnp.float32)}
        others = ("logit_scale",)
        self._text_params, one = load_params(path, shapes, ignore=(*VISION_KEYS, *others))
        self._vision_params, other = load_params(
            path, parameter_shapes(self._vision), ignore=(*TEXT_KEYS, *others)
        )
        self._tokenizer = load_tokenizer(path)
        self.name, self.fingerprint = str(folder), f"{one[:16]}{other[:16]}"

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[str]
    ) -> Float[np.ndarray, " B"]:
        """Give the cosine of each RGB picture's features and its text's, in [-1, 1]."""
        found = []
        for start in range(0, len(images), AT_ONCE):
            ids = self._tokens(texts[start : start + AT_ONCE])
            pixels = np.stack([self._pixels(each) for each in images[start : start + AT_ONCE]])
            rows = AT_ONCE - len(pixels)  # filled up, so that one program serves
            ids = np.pad(ids, [(0, rows), (0, 0)], mode="edge")
            pixels = np.pad(pixels, [(0, rows), *[(0, 0)] * 3], mode="edge")
            cosines = self._cosines(self._text_params, self._vision_params, ids, pixels)
            found.append(np.asarray(cosines)[: AT_ONCE - rows])
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    @cached_property
    def _cosines(self) -> Callable[..., Float[Array, " B"]]:
        end = self._tokenizer.eos_token_id

        @jax.jit
        def cosines(
            text_params: dict, vision_params: dict, ids: Int[Array, "B S"], pixels: Array
        ) -> Float[Array, " B"]:
            towers = {key: each for key, each in text_params.items() if key != "text_projection"}
            hidden = self._text.apply({"params": towers}, ids)
            # A text's feature is read from its end token, which looks back at all the others.
            last = (ids == end).argmax(axis=1)
            words = hidden[jnp.arange(len(ids)), last] @ text_params["text_projection"]["kernel"]
            seen = self._vision.apply({"params": vision_params}, normalize_pixels(pixels))
            lengths = jnp.linalg.norm(words, axis=1) * jnp.linalg.norm(seen, axis=1)
            return (words * seen).sum(axis=1) / lengths

        return cosines

    def _tokens(self, texts: Sequence[str]) -> np.ndarray:
        length = self._text.config.max_position_embeddings
        return self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="np",
        ).input_ids

    def _pixels(self, image: Image.Image) -> np.ndarray:
        """Scale the shorter side, and cut out the middle, as CLIP's own preprocessing does."""
        size = self._vision.config.image_size
        return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def _trimmed(config: dict) -> dict:
    """Leave out what the vision tower alone may have."""
    return {key: value for key, value in config.items() if key != "projection_dim"}
