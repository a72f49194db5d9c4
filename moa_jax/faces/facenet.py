"""FaceNet, by which the papers on personalized pictures measure identity.

Source: Schroff et al., "FaceNet" (arXiv 1503.03832); its Inception ResNet is that of the package
`facenet-pytorch`, whose weights it downloads, or which are read from a file. The package asks for a
torch of 2024, so it is installed without its dependencies, and of it the ResNet alone is imported:
its detector MTCNN would need torchvision. YuNet finds the faces instead, so numbers are near those
of the papers, and not the same to the digit.
"""

import importlib
import sys
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.extension import import_extra
from moa_jax.faces.recognizer import Face
from moa_jax.faces.yunet import YuNet

REMEDY = "pip install torch requests tqdm && pip install --no-deps facenet-pytorch"
SIZE = 160  # pixels, of the network's input
MODELS = "facenet_pytorch_models"  # the package's folder of networks, as a package of its own


class FaceNet:
    """Find faces by YuNet, and embed them by the Inception ResNet trained on VGGFace2.

    The paper takes two photographs for one person when the squared distance is below 1.242, and
    `same_person` is that value's root; these weights are another training than the paper's.
    """

    name = "facenet"
    licence = (
        "code and released weights: MIT; trained on VGGFace2, which has terms of its own; "
        f"{YuNet.licence}"
    )
    source = "facenet-pytorch, 20180402-114759-vggface2"
    same_person = 1.114

    def __init__(self, file: str | Path | None = None) -> None:
        """Read the weights.

        Args:
            file: a state dict (.pt) of the package's `InceptionResnetV1`; None downloads the one
                trained on VGGFace2, as the package does.

        Raises:
            InputError: the package, torch, onnxruntime or the detector's weights are not installed,
                or the weights cannot be read.
        """
        self._torch = import_extra("torch", "the recognizer facenet", REMEDY)
        self._network = self._load(_models().InceptionResnetV1, file).eval()
        self._detector = YuNet()

    def _load(self, network: Any, file: str | Path | None) -> Any:
        try:
            if file is None:
                return network(pretrained="vggface2")
            made = network()
            weights = self._torch.load(file, map_location="cpu", weights_only=True)
            # The released files also hold the classifier over the training's people.
            made.load_state_dict(
                {key: each for key, each in weights.items() if not key.startswith("logits.")}
            )
        except Exception as error:  # of the network, the disk, a pickle, or keys that do not fit
            wanted = "its own weights, by download" if file is None else repr(str(file))
            why = textwrap.shorten(f"{type(error).__name__}: {error}", 200)  # torch lists every key
            raise InputError(
                f"the recognizer facenet cannot read {wanted} ({why}): give the file, facenet:FILE"
            ) from error
        return made

    def find(self, image: Image.Image) -> list[Face]:
        """Find the faces of an RGB picture, the surest first."""
        return self._detector.find(image)

    def embed(self, image: Image.Image, faces: Sequence[Face]) -> Float[np.ndarray, "N 512"]:
        """Cut out each face by its box, scale it to SIZE pixels each way, and embed it."""
        if not faces:
            return np.zeros((0, 512), np.float32)
        cut = np.stack([_cut_out(image, face) for face in faces])
        with self._torch.no_grad():
            return self._network(self._torch.from_numpy(cut)).numpy()


def _cut_out(image: Image.Image, face: Face) -> Float[np.ndarray, "3 h w"]:
    """Cut as the package does: whole pixels within the picture; values from about -1 to 1."""
    left, top, right, bottom = (int(edge) for edge in face.box)
    box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    cut = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return (np.asarray(cut, np.float32).transpose(2, 0, 1) - 127.5) / 128


def _models() -> Any:
    """Import the package's ResNet, and not the package, which imports all that it has."""
    found = find_spec("facenet_pytorch")
    if found is None or not found.submodule_search_locations:
        raise InputError(f"the recognizer facenet needs the library facenet_pytorch: {REMEDY}")
    package = ModuleType(MODELS)
    package.__path__ = [str(Path(found.submodule_search_locations[0]) / "models")]
    sys.modules.setdefault(MODELS, package)
    wanted = f"{MODELS}.inception_resnet_v1"
    try:
        return importlib.import_module(wanted)
    except ImportError as error:  # requests or tqdm, by which it downloads
        raise InputError(f"the recognizer facenet: {error}: {REMEDY}") from error
