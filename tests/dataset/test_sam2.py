"""SAM 2 on random weights, against its parts called one by one; then the builder with it."""

import json

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from moa_jax.data.__main__ import main
from moa_jax.dataset import Models, Options, build
from moa_jax.dataset.checkpoint import Pixels
from moa_jax.dataset.florence2 import Florence2
from moa_jax.dataset.sam2 import Sam2
from moa_jax.errors import InputError
from tests.dataset.recorded import Recorded, write_photographs
from tests.dataset.tiny import MEAN, STD, write_florence2, write_sam2

PICTURE = Image.fromarray(skimage.data.coffee())
BOXES = [(150.0, 60.0, 460.0, 360.0), (0.0, 0.0, 599.0, 399.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sam2(tmp_path_factory.mktemp("sam2"))


def normalised(image, side):
    """As torchvision resizes tensors, which is torch's antialiased interpolation."""
    pixels = torch.tensor(np.array(image)).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(
        pixels, (side, side), mode="bilinear", antialias=True
    ).round()
    return (resized / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_pictures_are_prepared_as_torch_does():
    pixels = Pixels(128, tuple(MEAN), tuple(STD)).prepare(PICTURE)
    apart = np.abs(pixels - normalised(PICTURE, 128).numpy())
    assert apart.max() <= 1.01 / 255 / min(STD) and apart.mean() < 0.2 / 255 / min(STD)


def test_each_mask_is_that_of_its_box(folder):
    network = Sam2(str(folder))
    found = network.segment(PICTURE, ["a cup", "a table"], BOXES)
    with torch.inference_mode():
        for box, mask in zip(BOXES, found, strict=True):
            corners = torch.tensor(
                [
                    [
                        [
                            x * side / size
                            for x, size, side in zip(
                                box, (600, 400, 600, 400), (128, 128, 128, 128), strict=True
                            )
                        ]
                    ]
                ]
            )
            logits = network._model(
                pixel_values=normalised(PICTURE, 128), input_boxes=corners, multimask_output=False
            ).pred_masks[0]
            expected = torch.nn.functional.interpolate(logits, (400, 600), mode="bilinear") > 0
            assert mask.shape == (400, 600) and mask.dtype == bool
            assert (mask == expected[0, 0].numpy()).mean() > 0.98
    assert (found[0] != found[1]).mean() > 0.001  # the box matters


def test_the_folder_says_how_pictures_are_prepared(folder, tmp_path):
    assert Pixels.read(folder, 1024) == Pixels(128, tuple(MEAN), tuple(STD))
    assert Pixels.read(tmp_path, 1024) == Pixels(1024, tuple(MEAN), tuple(STD))
    inner = {"image_processor": {"size": {"height": 64}, "image_mean": [0.5] * 3}}
    (tmp_path / "processor_config.json").write_text(json.dumps(inner))
    assert Pixels.read(tmp_path, 1024) == Pixels(64, (0.5, 0.5, 0.5), tuple(STD))
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Pixels.read(tmp_path, 1024)


def test_the_builder_runs_the_real_networks(folder, tmp_path):
    """Random captions bind nothing, so that where the words are is told; all else is real."""
    florence2 = Florence2(str(write_florence2(tmp_path / "florence2")), max_new_tokens=8)
    write_photographs(tmp_path / "source")
    for name, caption in (
        ("astronaut", "A woman in an orange suit smiling in front of a flag."),
        ("camera", "A man with a camera on a field."),
    ):
        (tmp_path / "source" / f"{name}.txt").write_text(caption)
    models = Models(florence2, Recorded(), Sam2(str(folder)))
    data = tmp_path / "data"
    report = build(
        tmp_path / "source", data, [models], Options(min_area=0.001, min_fill=0.01, max_cut=1.0)
    )
    assert [row["file_name"] for row in report.rows] == [
        "images/astronaut.jpg",
        "images/camera.png",
    ]
    assert set(report.counts()["dropped"]) <= {"no subject", "not English"}
    assert f"the folder {tmp_path}/florence2, no revision known" in (data / "README.md").read_text()
    assert main(["check", str(data)]) == 0


def test_florence2_serves_as_captioner_and_grounder_by_its_name(folder, tmp_path, capsys):
    write_florence2(tmp_path / "florence2")
    write_photographs(tmp_path / "source")
    florence2 = (
        f"moa_jax.dataset.florence2:Florence2(model='{tmp_path}/florence2', max_new_tokens=4)"
    )
    sam2 = f"moa_jax.dataset.sam2:Sam2(model='{folder}')"
    networks = ["--captioner", florence2, "--grounder", florence2, "--segmenter", sam2]
    given = ["build", str(tmp_path / "source"), str(tmp_path / "data"), *networks]
    assert main([*given, "--devices", "cpu,cpu"]) == 2  # of random captions no picture is left
    assert "no picture is left of 6" in capsys.readouterr().err
