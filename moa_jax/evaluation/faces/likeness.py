"""How like the faces of a picture are to the people who were asked for.

Source: FastComposer (arXiv 2305.10431). Identity is the cosine of two embeddings, 0 where it is
negative and where there is no face. Of several people, each gets a face of its own, the most alike
two first, and the picture counts as its least alike person.

A cosine means nothing by itself: dlib gives about 0.8 to two strangers. So the distance is told
too, and the cosine after the mean of all people's embeddings is taken from both sides (centred).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from moa_jax.data.images import load_image
from moa_jax.errors import InputError
from moa_jax.evaluation.faces.protocol import Person
from moa_jax.faces.recognizer import Face, Recognizer

MIN_FOR_CENTRE = 3  # people: the centre of two lies between them, and their cosine is then -1

Vector = Float[np.ndarray, " D"]


def embed_people(recognizer: Recognizer, people: Sequence[Person]) -> dict[str, Vector]:
    """Embed everybody: the mean over their pictures, with length 1; the largest face of each.

    Raises:
        InputError: a picture cannot be read, or no face is found in it.
    """
    found = {}
    for person in people:
        vectors = [_embed_reference(recognizer, file) for file in person.pictures]
        found[person.name] = unit(np.mean(vectors, axis=0))
    return found


def centre_of(people: Mapping[str, Vector]) -> Vector | None:
    """Average the embeddings of people; None if they are too few."""
    return np.mean([*people.values()], axis=0) if len(people) >= MIN_FOR_CENTRE else None


def compare(
    recognizer: Recognizer,
    image: Image.Image,
    asked: Sequence[Vector],
    centre: Vector | None = None,
) -> dict[str, Any]:
    """Measure how like a picture's faces are to the people asked for.

    Args:
        image: RGB.
        asked: the embedding of each.

    Returns:
        `faces`, their number; `missing`, the people who get no face; `identity` and `centred`,
        cosines in [0, 1] of the least alike person; `distance` of the farthest person, in [0, 2],
        None if somebody is missing; `same`, whether all are nearer than `same_person`. `centred` is
        None without a centre.
    """
    faces = recognizer.find(image)
    vectors = recognizer.embed(image, faces)
    chosen = match(np.stack(asked) @ vectors.T if faces else np.zeros((len(asked), 0)))
    pairs = [(one, vectors[i]) for one, i in zip(asked, chosen, strict=True) if i is not None]
    missing = len(asked) - len(pairs)
    distances = [float(np.linalg.norm(one - other)) for one, other in pairs]
    centred = None if centre is None else [_cosine(a - centre, b - centre) for a, b in pairs]
    return {
        "faces": len(faces),
        "missing": missing,
        "identity": _least([_cosine(*pair) for pair in pairs], missing),
        "centred": None if centred is None else _least(centred, missing),
        "distance": None if missing else max(distances),
        "same": not missing and max(distances) < recognizer.same_person,
    }


def match(cosines: Float[np.ndarray, "n m"]) -> list[int | None]:
    """Give each person (row) a face (column) of its own, the most alike two first."""
    left = cosines.astype(np.float64)
    chosen: list[int | None] = [None] * len(left)
    for _ in range(min(left.shape)):
        row, column = np.unravel_index(left.argmax(), left.shape)
        chosen[row] = int(column)
        left[row], left[:, column] = -np.inf, -np.inf
    return chosen


def unit(vector: Vector) -> Vector:
    """Scale a vector to length 1."""
    return vector / np.linalg.norm(vector)


def _cosine(one: Vector, other: Vector) -> float:
    return float(unit(one) @ unit(other))


def _least(cosines: Sequence[float], missing: int) -> float:
    return 0.0 if missing else max(0.0, min(cosines))


def _embed_reference(recognizer: Recognizer, file: Any) -> Vector:
    image = load_image(file)
    faces = recognizer.find(image)
    if not faces:
        raise InputError(
            f"{file}: {recognizer.name} finds no face in this reference: give a picture with a "
            "larger face, or another --recognizer"
        )
    return recognizer.embed(image, [max(faces, key=_area)])[0]


def _area(face: Face) -> float:
    left, top, right, bottom = face.box
    return (right - left) * (bottom - top)
