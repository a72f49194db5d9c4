"""AuraFace: what goes into the network, seen through one that averages; it is not here itself."""

import numpy as np
import pytest
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.faces.align import aligned
from moa_jax.faces.recognizer import open_recognizer
from tests.faces.photos import astronaut, three
from tests.faces.tiny_onnx import quarters


@pytest.fixture(scope="module")
def auraface(tmp_path_factory):
    file = tmp_path_factory.mktemp("onnx") / "glintr100.onnx"
    file.write_bytes(quarters())
    return open_recognizer(f"auraface:{file}")


def test_pixels_go_in_aligned_red_first_and_from_minus_1_to_1(auraface):
    (face,) = auraface.find(astronaut())
    cut = np.asarray(aligned(astronaut(), face), float)
    blocks = cut.reshape(2, 56, 2, 56, 3).mean(axis=(1, 3)).transpose(2, 0, 1).ravel()
    expected = blocks / 127.5 - 1
    found = auraface.embed(astronaut(), [face])
    assert found.shape == (1, 12)
    assert np.allclose(found[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_embeddings_follow_the_faces(auraface):
    faces = auraface.find(three())
    found = auraface.embed(three(), faces)
    assert found.shape == (3, 12) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.array_equal(auraface.embed(three(), faces[1:2])[0], found[1])
    assert auraface.embed(Image.new("RGB", (64, 64)), []).shape == (0, 12)


def test_licences_are_told(auraface):
    assert "Apache 2.0" in auraface.licence and "MIT" in auraface.licence


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(quarters(64))
    with pytest.raises(InputError, match=r"a.onnx' takes \[1, 3, 64, 64\], and an ArcFace"):
        open_recognizer(f"auraface:{tmp_path / 'a.onnx'}")
    with pytest.raises(InputError, match="there is no file"):
        open_recognizer("auraface:nowhere.onnx")
    with pytest.raises(InputError, match="give the file, auraface:FILE; get it from https"):
        open_recognizer("auraface")
