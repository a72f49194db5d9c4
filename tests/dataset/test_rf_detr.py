"""RF-DETR: what is taken of answers written by hand, and that random weights give such answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from moa_jax.dataset.checkpoint import MEAN, STD, Pixels
from moa_jax.dataset.rf_detr import RfDetr
from moa_jax.errors import InputError
from tests.dataset.tiny import write_rf_detr

PICTURE = Image.fromarray(skimage.data.coffee())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_rf_detr(tmp_path_factory.mktemp("rf_detr"))


class Found:
    """Answers of the network's form: a person on the left, a dog on the right."""

    device, dtype = "cpu", torch.float32

    def __call__(self, pixel_values):
        assert pixel_values.shape == (1, 3, 56, 56)
        logits = torch.tensor([[[-9.0, 2.0, -9.0], [-9.0, -9.0, 2.0]]])  # a score of 0.88
        boxes = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]]])  # by their middles
        masks = torch.full((1, 2, 4, 6), -5.0)
        masks[0, 0, :, :3], masks[0, 1, :, 3:] = 5.0, 5.0
        return SimpleNamespace(logits=logits, pred_boxes=boxes, pred_masks=masks)


LEFT, RIGHT = (0.0, 0.0, 310.0, 400.0), (290.0, 0.0, 600.0, 400.0)


def test_the_mask_is_that_of_the_person_in_the_box(folder, monkeypatch):
    network = RfDetr(str(folder))
    monkeypatch.setattr(network, "_model", Found())
    person, nobody = network.segment(PICTURE, ["a man", "a man"], [LEFT, RIGHT])
    assert person.shape == (400, 600) and person[:, :300].all() and not person[:, 300:].any()
    assert not nobody.any()  # the dog is no person


def test_another_label_may_be_wanted(folder, monkeypatch):
    network = RfDetr(str(folder), label="dog", likely=0.8)
    monkeypatch.setattr(network, "_model", Found())
    nobody, dog = network.segment(PICTURE, ["a dog", "a dog"], [LEFT, RIGHT])
    assert not nobody.any() and dog[:, 300:].all()
    monkeypatch.setattr(network, "_likely", 0.9)
    assert not np.any(network.segment(PICTURE, ["a dog"], [RIGHT]))


def test_the_network_itself_gives_answers_of_that_form(folder):
    network = RfDetr(str(folder), likely=0.0)
    with torch.inference_mode():
        found = network._model(pixel_values=torch.tensor(Pixels(56, MEAN, STD).prepare(PICTURE)))
    x, y, width, height = (found.pred_boxes[0, 3] * torch.tensor([600, 400, 600, 400])).tolist()
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    [mask] = network.segment(PICTURE, ["a man"], [box])
    assert mask.shape == (400, 600)
    assert found.logits.shape == (1, 6, 3) and found.pred_masks.shape[:2] == (1, 6)


def test_a_label_that_is_not_there_is_named(folder):
    with pytest.raises(InputError, match="label='cat'.*background, person, dog"):
        RfDetr(str(folder), label="cat")
