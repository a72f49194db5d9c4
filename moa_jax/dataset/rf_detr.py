"""RF-DETR: the masks of people, whatever the phrases say.

Source: Robinson et al. 2025 (arXiv 2511.09554), in the form that transformers has of it. Never run
here with its released weights: the tests use small random ones.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from moa_jax.dataset.checkpoint import REMEDY, Pixels, fetch, load
from moa_jax.dataset.detections import LIKELY, choose
from moa_jax.dataset.models import Box, Mask
from moa_jax.errors import InputError
from moa_jax.extension import import_extra


class RfDetr:
    """A segmenter that finds everybody in the picture, and gives who is in the boxes."""

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        licence: str = "licence not stated",
        label: str = "person",
        likely: float = LIKELY,
    ) -> None:
        """Load it; the other arguments and errors are those of `Florence2`.

        Args:
            model: a folder or a repository with an RF-DETR that segments; sizes differ, and so do
                their licences.
            licence: of these weights, for the card.
            label: which of the network's labels is wanted; COCO's that are known by numbers only
                are named "LABEL_1" and so on.
            likely: score from which somebody counts as found.
        """
        self._torch = import_extra("torch", "RF-DETR", REMEDY)
        folder, self.about = fetch(model, revision, licence)
        self._model = load("RfDetrForInstanceSegmentation", folder, device, dtype)
        config = self._model.config
        labels = {name: number for number, name in config.id2label.items()}
        if label not in labels:
            raise InputError(f"label={label!r}: {model} has {', '.join(list(labels)[:20])}")
        self._label, self._likely = labels[label], likely
        self._pixels = Pixels.read(folder, config.backbone_config.image_size)

    def segment(self, image: Image.Image, texts: Sequence[str], boxes: Sequence[Box]) -> list[Mask]:
        """Draw the masks; see `Segmenter`."""
        place = {"device": self._model.device, "dtype": self._model.dtype}
        pixels = self._torch.tensor(self._pixels.prepare(image), **place)
        with self._torch.inference_mode():
            found = self._model(pixel_values=pixels)
        scores = found.logits[0, :, self._label].float().sigmoid().cpu().numpy()
        middles, sizes = np.split(found.pred_boxes[0].float().cpu().numpy(), 2, axis=1)
        sides = np.array([image.width, image.height] * 2)
        corners = np.concatenate([middles - sizes / 2, middles + sizes / 2], 1) * sides
        masks = []
        for box in boxes:
            chosen = choose(scores, corners, box, self._likely)
            if chosen is None:
                masks.append(np.zeros((image.height, image.width), bool))
                continue
            logits = found.pred_masks[:1, chosen : chosen + 1].float()
            large = self._torch.nn.functional.interpolate(
                logits, (image.height, image.width), mode="bilinear", align_corners=False
            )
            masks.append((large[0, 0] > 0).cpu().numpy())
        return masks
