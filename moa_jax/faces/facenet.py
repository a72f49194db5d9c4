"""FaceNet, by which the papers on personalized pictures measure identity.

Source: Schroff et al., "FaceNet" (arXiv 1503.03832), in the package `facenet-pytorch`: its MTCNN
finds faces, its Inception ResNet embeds them. MTCNN's weights come with the package; the ResNet's
are downloaded by it, or read from a file. The package asks for a torch of 2024, so it is installed
without its dependencies.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.extension import import_extra
from moa_jax.faces.recognizer import Face

REMEDY = "pip install torch torchvision && pip install --no-deps facenet-pytorch"
SIZE = 160  # pixels, of the network's input


class FaceNet:
    """Find faces by MTCNN, and embed them by the Inception ResNet trained on VGGFace2.

    The paper takes two photographs for one person when the squared distance is below 1.242, and
    `same_person` is that value's root; these weights are another training than the paper's.
    """

    name = "facenet"
    licence = "code and released weights: MIT; trained on VGGFace2, which has terms of its own"
    source = "facenet-pytorch 20180402-114759-vggface2"
    same_person = 1.114

    def __init__(self, file: str | Path | None = None) -> None:
        """Read the weights.

        Args:
            file: a state dict (.pt) of the package's `InceptionResnetV1`; None downloads the one
                trained on VGGFace2, as the package does.

        Raises:
            InputError: the package or torch is not installed, or the weights cannot be read.
        """
        self._torch = import_extra("torch", "the recognizer facenet", REMEDY)
        self._library = import_extra("facenet_pytorch", "the recognizer facenet", REMEDY)
        self._detector = self._library.MTCNN(keep_all=True, select_largest=False)
        self._network = self._load(file).eval()

    def _load(self, file: str | Path | None) -> Any:
        try:
            if file is None:
                return self._library.InceptionResnetV1(pretrained="vggface2")
            network = self._library.InceptionResnetV1()
            weights = self._torch.load(file, map_location="cpu", weights_only=True)
            # The released files also hold the classifier over the training's people.
            kept = {key: each for key, each in weights.items() if not key.startswith("logits.")}
            network.load_state_dict(kept)
        except Exception as error:  # of the network, the disk, a pickle, or keys that do not fit
            wanted = "its own weights, by download" if file is None else repr(str(file))
            raise InputError(
                f"the recognizer facenet cannot read {wanted} ({type(error).__name__}: {error}): "
                "give the file, facenet:FILE"
            ) from error
        return network

    def find(self, image: Image.Image) -> list[Face]:
        """Find the faces of an RGB picture, the surest first; the score is in [0, 1]."""
        boxes, scores, points = self._detector.detect(image, landmarks=True)
        if boxes is None:
            return []
        found = zip(boxes, points, scores, strict=True)
        faces = [
            Face(tuple(map(float, box)), np.asarray(five, float), float(score))
            for box, five, score in found
        ]
        return sorted(faces, key=lambda face: -face.score)

    def embed(self, image: Image.Image, faces: Sequence[Face]) -> Float[np.ndarray, "N 512"]:
        """Cut out each face by its box, and embed it, as the package does."""
        if not faces:
            return np.zeros((0, 512), np.float32)
        cut = [self._library.extract_face(image, face.box, SIZE) for face in faces]
        prepare = self._library.fixed_image_standardization
        with self._torch.no_grad():
            return self._network(prepare(self._torch.stack(cut))).numpy()
