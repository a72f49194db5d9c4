"""What the builder may be told, and the arguments of `python -m moa_jax.data build`."""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from moa_jax.config import DataConfig, MethodConfig
from moa_jax.dataset.models import BUILT_IN

Filter = Callable[[Image.Image], str | None]


@dataclass(frozen=True)
class Options:
    """What is kept of the pictures. All thresholds are ours and may be changed.

    Attributes:
        subjects: which nouns may be subjects: "people", "animals", nouns in the singular with
            commas between, or "all".
        max_subjects: subjects of one picture; of more the largest are kept.
        min_side: shorter side of a picture, in pixels.
        min_sharpness: variance of the Laplacian of a picture, and of a face; see
            `quality.sharpness`.
        min_area: area of a subject as a share of its picture.
        min_fill: area of a mask as a share of its box.
        max_cut: share of a subject's height or width that an edge of the picture may cut off.
        duplicate_distance: bits in which the hashes of two copies may differ; -1 keeps copies.
        min_face: side of a face in pixels, where a recognizer finds faces.
        max_references: of each subject, how many other pictures are written.
        pair_distance: distance of two faces from which they are never paired; None means the
            recognizer's own `same_person`.
    """

    subjects: str = "people"
    max_subjects: int = MethodConfig().max_subjects
    min_side: int = 256
    min_sharpness: float = 15.0
    min_area: float = 0.02
    min_fill: float = 0.1
    max_cut: float = 0.3
    duplicate_distance: int = 4
    min_face: int = 40
    max_references: int = 4
    pair_distance: float | None = None


HELP = {
    "subjects": "people, animals, nouns with commas between, or all",
    "max_subjects": "subjects of one picture; of more the largest are kept",
    "min_side": "shorter side of a picture, in pixels",
    "min_sharpness": "variance of the Laplacian of a picture, and of a face",
    "min_area": "area of a subject as a share of its picture",
    "min_fill": "area of a mask as a share of its box",
    "max_cut": "share of a subject that the left, right or upper edge may cut off",
    "duplicate_distance": "bits in which the hashes of two copies may differ; -1 keeps copies",
    "min_face": "side of a face in pixels, with --pair or --faces",
    "max_references": "other pictures that are written of each subject, with --pair",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the builder to a parser."""
    parser.add_argument("source", metavar="SRC", help="the folder of your pictures")
    parser.add_argument("destination", metavar="DST", help="the new folder")
    for role, known in BUILT_IN.items():
        text = f"{', '.join(known)}, or yours as module:Class(option=1) (default %(default)s)"
        parser.add_argument(f"--{role}", default=next(iter(known)), help=text)
    parser.add_argument(
        "--devices",
        help="of PyTorch, with commas between; default: every CUDA device, or else the CPU",
    )
    parser.add_argument("--faces", metavar="NAME", help="recognizer of faces, such as dlib")
    parser.add_argument("--pair", action="store_true", help="find the same person in two pictures")
    distance = "distance of faces from which they are never paired (default: the recognizer's)"
    parser.add_argument("--pair-distance", type=float, help=distance)
    parser.add_argument(
        "--filter", metavar="MODULE:FUNCTION", help="yours: a picture to a reason, or to None"
    )
    workers = "threads that read pictures (default %(default)s)"
    parser.add_argument("--workers", type=int, default=DataConfig().workers, help=workers)
    for name, value in asdict(Options()).items():
        if name in HELP:
            option = f"--{name.replace('_', '-')}"
            text = f"{HELP[name]} (default %(default)s)"
            parser.add_argument(option, type=type(value), default=value, help=text)


def read_options(given: argparse.Namespace) -> Options:
    """Take the options of what is kept from the arguments."""
    values: dict[str, Any] = {name: getattr(given, name) for name in asdict(Options())}
    return Options(**values)
