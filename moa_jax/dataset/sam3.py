"""SAM 3: the masks of all things that a phrase names, of which the one in the box is taken.

Source: Carion et al. 2025, "SAM 3: Segment Anything with Concepts", in the form that transformers
has of it. Its weights have a licence of their own, and are given after an agreement. transformers
runs it with torchvision only. Never run here with its released weights: the tests use small ones.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from moa_jax.dataset.checkpoint import REMEDY, Pixels, fetch, load, load_processor
from moa_jax.dataset.detections import LIKELY, choose
from moa_jax.dataset.models import Box, Mask
from moa_jax.extension import import_extra

WORDS = 32  # tokens of a phrase, padded to this


class Sam3:
    """A segmenter that uses the phrases, and the boxes to choose among what they name."""

    def __init__(
        self,
        model: str = "facebook/sam3",
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        likely: float = LIKELY,
    ) -> None:
        """Load it; the other arguments and errors are those of `Florence2`.

        Args:
            likely: score from which a thing counts as found.
        """
        self._likely = likely
        self._torch = import_extra("torch", "SAM 3", REMEDY)
        folder, self.about = fetch(model, revision, "SAM License")
        self._model = load("Sam3Model", folder, device, dtype)
        normal = (0.5, 0.5, 0.5)
        self._pixels = Pixels.read(folder, self._model.config.image_size, normal, normal)
        self._tokenizer = load_processor("AutoTokenizer", folder)

    def segment(self, image: Image.Image, texts: Sequence[str], boxes: Sequence[Box]) -> list[Mask]:
        """Draw the masks; see `Segmenter`."""
        place = {"device": self._model.device, "dtype": self._model.dtype}
        pixels = self._torch.tensor(self._pixels.prepare(image), **place)
        with self._torch.inference_mode():
            seen = self._model.get_vision_features(pixel_values=pixels)  # once for all phrases
            return [self._mask(seen, image, *each) for each in zip(texts, boxes, strict=True)]

    def _mask(self, seen: Any, image: Image.Image, text: str, box: Box) -> Mask:
        """Draw the mask of the thing that a phrase names, in a box."""
        given = self._tokenizer(
            text, return_tensors="pt", padding="max_length", max_length=WORDS, truncation=True
        ).to(self._model.device)
        ids, attention = given["input_ids"], given["attention_mask"]
        found = self._model(vision_embeds=seen, input_ids=ids, attention_mask=attention)
        scores = found.pred_logits[0].float().sigmoid() * found.presence_logits[0].float().sigmoid()
        sides = np.array([image.width, image.height] * 2)
        corners = found.pred_boxes[0].float().cpu().numpy() * sides
        chosen = choose(scores.cpu().numpy(), corners, box, self._likely)
        if chosen is None:
            return np.zeros((image.height, image.width), bool)
        logits, size = (
            found.pred_masks[:1, chosen : chosen + 1].float(),
            (image.height, image.width),
        )
        probability = self._torch.nn.functional.interpolate(
            logits.sigmoid(), size, mode="bilinear", align_corners=False
        )
        return (probability[0, 0] > 0.5).cpu().numpy()
