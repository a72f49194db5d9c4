"""Encoded data sets: what the frozen encoders make of each picture, computed once and kept on disk.

The folder holds arrays, which are read by memory mapping: `latents.npy` has a row for each record,
`masks.npy` (bits) and `features.npy` have a row for each subject. A row is as long as the largest
size needs, and a smaller picture fills its beginning. If any subject has references,
`references.npy` has a row of features for each of them. `index.json` says what all were made of,
and holds captions, words and sizes. `moa_jax.training.encoding` makes what is written here.
Encoded pictures can no longer be augmented.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16

from moa_jax.config import DataConfig
from moa_jax.data.buckets import Size
from moa_jax.data.captions import Tokenizer
from moa_jax.data.examples import Example, teach
from moa_jax.data.files import appearing
from moa_jax.data.references import draw_reference
from moa_jax.errors import InputError

INDEX = "index.json"
ARRAYS = ("latents", "masks", "features")
REFERENCES = "references.npy"


@dataclass(frozen=True, eq=False)
class EncodedSubject:
    """A subject in memory.

    Attributes:
        mask: the subject's mask on the cropped picture.
        end: number of characters of the caption up to the end of its word.
        references: the image encoder's output for each of the subject's other pictures.
    """

    mask: Bool[np.ndarray, "height width"]
    end: int
    references: tuple[Float16[np.ndarray, " F"], ...] = ()


@dataclass(frozen=True, eq=False)
class EncodedRecord:
    """A record in memory.

    Attributes:
        latents: mean, then standard deviation, at the U-Net's scale.
        features: the image encoder's output for each subject's own crop.
        sample_subjects: see `moa_jax.data.records.Record`.
        size: width and height of the cropped picture, in pixels.
    """

    latents: Float16[np.ndarray, "h w C2"]
    features: Float16[np.ndarray, "K F"]
    caption: str
    subjects: tuple[EncodedSubject, ...]
    sample_subjects: bool
    size: Size


class EncodedRecords(Sequence[EncodedRecord]):
    """The records of a folder that `write_encoded` wrote.

    Attributes:
        source: what they were made of, as `write_encoded` got it.
        sizes: width and height of each cropped picture, in pixels.
    """

    def __init__(self, folder: str | Path):
        """Open the folder.

        Raises:
            InputError: the folder is missing or not intact.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / INDEX).read_text())
            arrays = [np.load(folder / f"{n}.npy", mmap_mode="r") for n in ARRAYS]
            self.source: dict[str, Any] = index["source"]
            self._records, square = index["records"], [self.source["resolution"]] * 2
            self.sizes: list[Size] = [
                (width, height)
                for width, height in index.get("sizes", [square] * len(self._records))
            ]
            self._downscale = index.get("downscale", square[0] // arrays[0].shape[1])
            paired = any(len(record) > 4 for record in self._records[:1])  # all, or none
            self._references = np.load(folder / REFERENCES, mmap_mode="r") if paired else None
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise InputError(
                f"data.encoded={str(folder)!r} cannot be read ({error}): delete it, and training "
                "encodes the pictures again"
            ) from error
        self._latents, self._masks, self._features = arrays

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> EncodedRecord:
        caption, sample_subjects, first, ends, *paired = self._records[index]
        rows = slice(first, first + len(ends))
        width, height = self.sizes[index]
        bits = np.unpackbits(self._masks[rows], axis=1, count=width * height)
        masks = bits.reshape(-1, height, width).astype(bool)
        shape = (height // self._downscale, width // self._downscale, self._latents.shape[-1])
        latents = np.array(self._latents[index]).reshape(-1)[: math.prod(shape)]
        return EncodedRecord(
            latents.reshape(shape),
            np.array(self._features[rows]),
            caption,
            tuple(map(EncodedSubject, masks, ends, self._read_references(len(ends), *paired))),
            sample_subjects,
            (width, height),
        )

    def _read_references(
        self, subjects: int, first: int = 0, counts: Sequence[int] = ()
    ) -> list[tuple[Float16[np.ndarray, " F"], ...]]:
        """Read those of a record; the numbers are absent where no record has any."""
        if self._references is None:
            return [()] * subjects
        found = []
        for count in counts:
            found.append(tuple(np.array(self._references[first : first + count])))
            first += count
        return found


def write_encoded(
    folder: Path,
    records: Iterable[EncodedRecord],
    source: Mapping[str, Any],
    *,
    rows: tuple[int, int],
    size: Size,
    downscale: int,
    channels: int,
    features: int,
    references: int = 0,
) -> None:
    """Write records one after the other; the folder appears once it is complete.

    Args:
        source: what the records are made of, as JSON can hold it.
        rows: largest possible numbers of records and of subjects.
        size: width and height of the largest picture, in pixels.
        downscale: how many pixels a side of the latents has for each of theirs.
        channels: of the latents, mean and standard deviation together.
        features: width of a subject's features.
        references: largest possible number of references.
    """
    width, height = size
    latents = (height // downscale, width // downscale, channels)
    bits = (width * height + 7) // 8  # bytes of a mask's row
    subjects = max(1, rows[1])  # no empty file can be mapped
    shapes = ((rows[0], *latents), (subjects, bits), (subjects, features))
    kinds = (np.float16, np.uint8, np.float16)
    with appearing(folder) as unfinished:
        arrays = [
            np.lib.format.open_memmap(unfinished / f"{name}.npy", "w+", kind, shape)
            for name, kind, shape in zip(ARRAYS, kinds, shapes, strict=True)
        ]
        if references:
            shape = (references, features)
            arrays.append(
                np.lib.format.open_memmap(unfinished / REFERENCES, "w+", np.float16, shape)
            )
        listed, sizes, row, reference_row = [], [], 0, 0
        for place, record in enumerate(records):
            arrays[0][place].reshape(-1)[: record.latents.size] = record.latents.reshape(-1)
            sizes.append(record.size)
            ends = [subject.end for subject in record.subjects]
            listed.append([record.caption, record.sample_subjects, row, ends])
            if references:
                listed[-1] += [reference_row, [len(each.references) for each in record.subjects]]
            arrays[2][row : row + len(ends)] = record.features
            for subject in record.subjects:
                packed = np.packbits(subject.mask)
                arrays[1][row, : len(packed)] = packed
                row += 1
                for reference in subject.references:
                    arrays[3][reference_row] = reference
                    reference_row += 1
        for array in arrays:
            array.flush()
        index = {"source": source, "records": listed, "sizes": sizes, "downscale": downscale}
        (unfinished / INDEX).write_text(json.dumps(index))


def make_encoded_example(
    record: EncodedRecord,
    random: np.random.Generator,
    config: DataConfig,
    tokenizer: Tokenizer,
    max_subjects: int,
) -> Example:
    """Make a training example.

    Args:
        config: its condition_dropout, subject_dropout and reference_probability are used.

    Returns:
        One row of a batch: latents and features in place of the image and subject_images of
        `moa_jax.data.examples.make_example`.
    """
    shown = list(record.features)
    for place, subject in enumerate(record.subjects):
        drawn = draw_reference(len(subject.references), random, config.reference_probability)
        if drawn is not None:
            shown[place] = subject.references[drawn]
    masks = [subject.mask for subject in record.subjects]
    kept, taught = teach(record, masks, random, config, tokenizer, max_subjects, record.size)
    features = np.zeros((max_subjects, record.features.shape[1]), np.float16)
    for slot, place in enumerate(kept):
        features[slot] = shown[place]
    return {"latents": record.latents, "features": features, **taught}
