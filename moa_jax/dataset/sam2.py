"""SAM 2: the mask of what a box holds.

Source: Ravi et al. 2024 (arXiv 2408.00714), in the form that transformers has of it. Never run
here with its released weights: the tests use small random ones.
"""

from collections.abc import Sequence

from PIL import Image

from moa_jax.dataset.checkpoint import fetch, load
from moa_jax.dataset.models import Box, Mask


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
        folder, self.about = fetch(model, revision, "Apache-2.0")
        self._model, self._processor = load("Sam2Model", "Sam2Processor", folder, device, dtype)

    def segment(self, image: Image.Image, texts: Sequence[str], boxes: Sequence[Box]) -> list[Mask]:
        """Draw the masks; see `Segmenter`."""
        import torch

        given = [[list(box) for box in boxes]]
        inputs = self._processor(images=image, input_boxes=given, return_tensors="pt")
        sizes = inputs["original_sizes"]
        inputs = inputs.to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            outputs = self._model(**inputs, multimask_output=False)
        masks = self._processor.post_process_masks(outputs.pred_masks.float().cpu(), sizes)[0]
        return [mask[0].numpy() for mask in masks]
