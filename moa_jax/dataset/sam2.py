"""SAM 2: the mask of what a box holds.

Source: Ravi et al. 2024 (arXiv 2408.00714), in the form that transformers has of it. Never run
here with its released weights: the tests use small random ones.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from moa_jax.dataset.checkpoint import REMEDY, Pixels, fetch, load
from moa_jax.dataset.models import Box, Mask
from moa_jax.extension import import_extra


class Sam2:
    """A segmenter that uses the boxes."""

    def __init__(
        self,
        model: str = "facebook/sam2.1-hiera-large",
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        """Load it; the arguments and errors are those of `Florence2`."""
        self._torch = import_extra("torch", "SAM 2", REMEDY)
        folder, self.about = fetch(model, revision, "Apache-2.0")
        self._model = load("Sam2Model", folder, device, dtype)
        self._pixels = Pixels.read(folder, self._model.config.prompt_encoder_config.image_size)

    def segment(self, image: Image.Image, texts: Sequence[str], boxes: Sequence[Box]) -> list[Mask]:
        """Draw the masks; see `Segmenter`."""
        side, place = self._pixels.side, {"device": self._model.device, "dtype": self._model.dtype}
        scale = [side / image.width, side / image.height] * 2
        pixels = self._torch.tensor(self._pixels.prepare(image), **place)
        corners = self._torch.tensor([[np.multiply(box, scale).tolist() for box in boxes]], **place)
        with self._torch.inference_mode():
            found = self._model(pixel_values=pixels, input_boxes=corners, multimask_output=False)
        logits = found.pred_masks[0].float()  # of each box one mask, at a quarter of the side
        size = (image.height, image.width)
        logits = self._torch.nn.functional.interpolate(
            logits, size, mode="bilinear", align_corners=False
        )
        return [mask[0].numpy() for mask in (logits > 0).cpu()]
