"""AuraFace: an ArcFace network trained on data that allow commercial use, run by onnxruntime.

Source: fal's AuraFace v1 (https://huggingface.co/fal/AuraFace-v1), Apache 2.0. Its file
`glintr100.onnx` is given by its path. Any other network with ArcFace's input and output, of 112
pixels each way, is read the same way; what licence it has is then for its user to know.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.faces.align import SIZE, aligned
from moa_jax.faces.recognizer import Face
from moa_jax.faces.yunet import YuNet, open_session


class AuraFace:
    """Find faces by YuNet, and embed them by an ArcFace network.

    insightface's demo (`web-demos/src_recognition/main.py`) takes two photographs for one person
    from a cosine of 0.28 on, for another network of the same kind; `same_person` is the distance
    of that, the square root of 2 - 0.56. For AuraFace itself no value was found.
    """

    name = "auraface"
    licence = f"weights of AuraFace v1: Apache 2.0; {YuNet.licence}"
    source = "https://huggingface.co/fal/AuraFace-v1, glintr100.onnx"
    same_person = 1.2

    def __init__(self, file: str | Path | None = None) -> None:
        """Read the weights.

        Args:
            file: glintr100.onnx.

        Raises:
            InputError: no file is given, it cannot be read, or it is not an ArcFace network; or
                onnxruntime or the detector's weights are missing.
        """
        if file is None:
            raise InputError(
                f"--recognizer auraface: give the file, auraface:FILE; get it from {self.source}"
            )
        self._session = open_session(file, "the recognizer auraface")
        (given, *_), shape = self._session.get_inputs(), (3, SIZE, SIZE)
        if tuple(given.shape[1:]) != shape:
            raise InputError(
                f"the recognizer auraface: {str(file)!r} takes {given.shape}, and an ArcFace "
                f"network takes a batch of {shape}"
            )
        self._input, self._detector = given.name, YuNet()

    def find(self, image: Image.Image) -> list[Face]:
        """Find the faces of an RGB picture, the surest first."""
        return self._detector.find(image)

    def embed(self, image: Image.Image, faces: Sequence[Face]) -> Float[np.ndarray, "N D"]:
        """Bring each face to ArcFace's template, and embed it; pixels go in as -1 to 1."""
        # One by one: a network may have been exported for one row.
        rows = [self._run(aligned(image, face)) for face in faces]
        width = self._session.get_outputs()[0].shape[-1]
        vectors = np.concatenate(rows) if rows else np.zeros((0, width), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _run(self, face: Image.Image) -> Float[np.ndarray, "1 D"]:
        pixels = (np.asarray(face, np.float32) - 127.5) / 127.5
        return self._session.run(None, {self._input: pixels.transpose(2, 0, 1)[None]})[0]
