"""References: other pictures of a subject, one of which is shown instead of its own crop.

A model that is always shown a crop of the very picture it has to draw can learn to paste it. A
reference shows the same subject in another pose, place and light. Source: [ours].
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool
from PIL import Image

from moa_jax.data.augment import cut_out
from moa_jax.data.images import bounds, load_image, load_mask, require_mask_of
from moa_jax.data.record import Record, Reference, Subject


@dataclass(frozen=True, eq=False)
class LoadedReference:
    """A reference in memory.

    Attributes:
        mask: which pixels are the subject; None if the picture shows the subject alone.
    """

    image: Image.Image
    mask: Bool[np.ndarray, "H W"] | None

    def show(self, random: np.random.Generator) -> Image.Image:
        """Cut the subject out, before noise; without a mask, give the entire picture."""
        if self.mask is None:
            return self.image
        return cut_out(self.image, self.mask, bounds(self.mask), random)


def load_reference(reference: Reference, name: str) -> LoadedReference:
    """Read a reference.

    Args:
        name: what messages call it, after the name of its file.

    Raises:
        InputError: a file cannot be read, or the mask is empty or of another size.
    """
    image = load_image(reference.image)
    if reference.mask is None:
        return LoadedReference(image, None)
    mask = load_mask(reference.mask)
    require_mask_of(mask, image, f"{reference.mask} (the mask of {name})")
    return LoadedReference(image, mask)


def draw_references(record: Record, random: np.random.Generator, probability: float) -> Record:
    """Draw by which picture each subject is shown, before any file is read.

    Args:
        random: goes on as it was if the record has no references.
        probability: see `data.reference_probability`.

    Returns:
        The record, with the reference that was drawn as the only one of its subject; none where the
        subject's own crop was drawn.
    """
    if not count_references(record.subjects):
        return record
    subjects = []
    for subject in record.subjects:
        drawn = draw_reference(len(subject.references), random, probability)
        shown = () if drawn is None else (subject.references[drawn],)
        subjects.append(replace(subject, references=shown))
    return replace(record, subjects=tuple(subjects))


def draw_reference(count: int, random: np.random.Generator, probability: float) -> int | None:
    """Draw one of a subject's references, each as often; None stands for the subject's own crop.

    Args:
        count: how many there are; of none nothing is drawn.
        probability: how often it is one of them.
    """
    if not count or random.random() >= probability:
        return None
    return int(random.integers(count))


def count_references(subjects: Iterable[Subject]) -> int:
    """Count the references of several subjects together."""
    return sum(len(subject.references) for subject in subjects)
