"""SAM 3 on random weights, against its network called with the whole picture and one phrase."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from transformers.utils import import_utils

from moa_jax.dataset.checkpoint import Pixels
from moa_jax.dataset.sam3 import Sam3
from tests.dataset.tiny import write_sam3

PICTURE = Image.fromarray(skimage.data.coffee())
LEFT, RIGHT = (0.0, 0.0, 40.0, 100.0), (60.0, 0.0, 100.0, 100.0)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """transformers asks for torchvision, of which phrases without boxes need nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(import_utils.BACKENDS_MAPPING, "torchvision", (lambda: True, ""))
        yield Sam3(str(write_sam3(tmp_path_factory.mktemp("sam3"))))


def called(network, text):
    pixels = torch.tensor(Pixels(56, (0.5,) * 3, (0.5,) * 3).prepare(PICTURE))
    words = network._tokenizer(text, return_tensors="pt", padding="max_length", max_length=32)
    with torch.inference_mode():
        return network._model(pixel_values=pixels, **words)


def test_the_mask_is_that_of_the_thing_in_the_box(network, monkeypatch):
    monkeypatch.setattr(network, "_likely", 0.0)
    masks = {}
    for text in ("a cup", "a man"):
        found = called(network, text)
        boxes = found.pred_boxes[0] * torch.tensor([600, 400, 600, 400])
        for place in (0, 5):
            box = tuple(map(float, boxes[place]))
            [mask] = network.segment(PICTURE, [text], [box])
            [same] = [other for other in range(6) if torch.equal(boxes[other], boxes[place])]
            logits = found.pred_masks[:, [same]]
            expected = torch.nn.functional.interpolate(
                logits.sigmoid(), (400, 600), mode="bilinear", align_corners=False
            )
            assert mask.shape == (400, 600)
            assert (mask == (expected[0, 0] > 0.5).numpy()).mean() > 0.999
            masks[text, place] = mask
    assert (masks["a cup", 0] != masks["a man", 0]).any()
    assert (masks["a cup", 0] != masks["a cup", 5]).any()


def test_what_is_not_found_has_an_empty_mask(network, monkeypatch):
    monkeypatch.setattr(network, "_likely", 1.0)
    masks = network.segment(PICTURE, ["a cup", "a man"], [LEFT, RIGHT])
    assert len(masks) == 2 and not np.any(masks)
