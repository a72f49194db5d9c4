"""YuNet's decoding, against OpenCV's FaceDetectorYN with the same weights."""

import numpy as np
import pytest
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.faces.yunet import SIDE, YuNet, _packaged, strongest
from moa_jax.toyworld.pictures import portrait
from tests.faces.photos import astronaut, changed, figures, three, without_faces

import cv2  # isort: skip


@pytest.fixture(scope="module")
def yunet():
    return YuNet()


def oracle(picture):
    """OpenCV's rows: x, y, width, height, five points, score."""
    canvas = Image.new("RGB", (SIDE, SIDE))
    canvas.paste(picture)
    detector = cv2.FaceDetectorYN_create(str(_packaged()), "", (SIDE, SIDE), 0.6, 0.3)
    _, rows = detector.detect(np.asarray(canvas)[..., ::-1])
    return [] if rows is None else rows


def small(picture):
    scale = SIDE / max(picture.size)
    size = tuple(round(scale * side) for side in picture.size)
    return picture.resize(size) if scale < 1 else picture


PICTURES = {
    "one": astronaut(),
    "three": small(three()),
    "none": without_faces()[0],
    **changed(),
    **{name: small(each) for name, each in figures().items()},
}


@pytest.mark.parametrize("name", PICTURES)
def test_faces_are_opencvs(yunet, name):
    expected, found = oracle(PICTURES[name]), yunet.find(PICTURES[name])
    assert len(found) == len(expected)
    for face, row in zip(found, expected, strict=True):
        left, top, right, bottom = face.box
        assert np.allclose((left, top, right - left, bottom - top), row[:4], atol=0.1)
        assert np.allclose(face.points, row[4:14].reshape(5, 2), atol=0.1)
        assert face.score == pytest.approx(row[14], abs=1e-3)


def test_a_large_picture_is_searched_small_and_answered_in_its_own_pixels(yunet):
    (face,) = yunet.find(astronaut())
    (large,) = yunet.find(astronaut().resize((2048, 2048), Image.Resampling.LANCZOS))
    assert np.allclose(large.points / 4, face.points, atol=6)
    assert np.allclose(np.divide(large.box, 4), face.box, atol=8)


def test_a_drawn_person_is_no_face(yunet):
    assert yunet.find(portrait(1)) == []


def test_overlapping_boxes_are_one_face():
    boxes = np.array([(0, 0, 10, 10), (1, 0, 11, 10), (20, 0, 30, 10), (0, 0, 10, 10)], float)
    assert strongest(boxes, np.array([0.8, 0.9, 0.7, 0.2]), 0.6) == [1, 2]
    # Boxes that share 1/3 are of one face, and those that share 1/4 are not.
    apart = np.array([(0, 0, 10, 10), (5, 0, 15, 10), (0, 6, 10, 16)], float)
    assert strongest(apart, np.array([0.9, 0.8, 0.7]), 0.6) == [0, 2]


def test_a_file_that_is_no_network_is_named(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no network")
    with pytest.raises(InputError, match="YuNet: .*no.onnx' cannot be read"):
        YuNet(tmp_path / "no.onnx")
    with pytest.raises(InputError, match="there is no file"):
        YuNet(tmp_path / "none.onnx")
