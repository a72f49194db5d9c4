"""FaceNet with random weights, against the package's own forward pass.

The released weights cannot be had here. What is tested is that a face goes through the cut-out, the
standardization and the network as the package has them.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.faces import facenet as module
from moa_jax.faces.recognizer import Face, open_recognizer
from tests.faces.photos import astronaut

pytest.importorskip("requests")
if module.find_spec("facenet_pytorch") is None:
    pytest.skip("pip install --no-deps facenet-pytorch", allow_module_level=True)
networks = module._models()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A state dict as the released ones are: with the classifier over the training's people."""
    torch.manual_seed(0)
    network = networks.InceptionResnetV1(classify=True, num_classes=7).eval()
    file = tmp_path_factory.mktemp("facenet") / "weights.pt"
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def facenet(weights):
    return open_recognizer(f"facenet:{weights}")


def own_forward(weights, image, boxes):
    """Embed boxes as the package's documentation does, in its own words of torch."""
    network = networks.InceptionResnetV1(classify=True, num_classes=7)
    network.load_state_dict(torch.load(weights))
    network.classify = False
    cut = [image.crop(box).resize((160, 160), Image.Resampling.BILINEAR) for box in boxes]
    faces = torch.stack([torch.tensor(np.asarray(each)).permute(2, 0, 1).float() for each in cut])
    with torch.no_grad():
        return network.eval()((faces - 127.5) / 128.0).numpy()


@pytest.mark.slow  # a network of full size, twice
def test_embeddings_are_the_packages_own(facenet, weights):
    (face,) = facenet.find(astronaut())
    outside = Face((-20.0, -3.0, 150.7, 600.0), np.zeros((5, 2)), 1.0)
    boxes = [tuple(int(edge) for edge in face.box), (0, 0, 150, 512)]  # cut at the picture's edge
    found = facenet.embed(astronaut(), [face, outside])
    assert found.shape == (2, 512)
    assert np.allclose(found, own_forward(weights, astronaut(), boxes), atol=1e-5)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert facenet.embed(astronaut(), []).shape == (0, 512)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    for file in ("a.pt", "none.pt"):
        with pytest.raises(InputError, match=f"facenet cannot read .*{file}.*give the file"):
            open_recognizer(f"facenet:{tmp_path / file}")


def test_weights_that_cannot_be_downloaded_are_asked_for(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(networks, "load_weights", offline)
    with pytest.raises(InputError, match="its own weights, by download .*no network.*facenet:FILE"):
        open_recognizer("facenet")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="needs the library facenet_pytorch: pip install"):
        open_recognizer("facenet")
