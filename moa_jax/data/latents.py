"""Latents of a data set's pictures, computed once and kept on disk, in place of the pixels alone.

Augmentation changes a target by a flip and by nothing else. So the latents of a picture and of its
mirror image are all that a training asks of the VAE, and a batch read from here differs from one of
pixels in nothing else. Everything beside the pixels is read, drawn and augmented as without.

The folder holds `latents.npy`, which is read by memory mapping: a row for each record and flip, as
long as the largest size needs; a smaller picture fills its beginning. `index.json` says what they
were made of, and the size of each picture. `moa_jax.training.latents` makes what is written here.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from moa_jax.data.buckets import Size
from moa_jax.data.files import appearing
from moa_jax.errors import InputError

INDEX, ARRAY = "index.json", "latents.npy"
FLIPS = (False, True)  # in the order of a record's rows


class Latents:
    """The latents in a folder that `write_latents` wrote.

    Attributes:
        source: what they were made of, as `write_latents` got it.
    """

    def __init__(self, folder: str | Path):
        """Open the folder.

        Raises:
            InputError: the folder is missing or not intact.
        """
        self._folder = Path(folder)
        try:
            index = json.loads((self._folder / INDEX).read_text())
            self.source: dict[str, Any] = index["source"]
            self._sizes, self._downscale = index["sizes"], index["downscale"]
            self._array = np.load(self._folder / ARRAY, mmap_mode="r")
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            raise InputError(
                f"data.latents={str(folder)!r} cannot be read ({error}): make it with train.py "
                "--encode, after deleting what is there"
            ) from error

    def __len__(self) -> int:
        return len(self._sizes)

    def faults(self, index: int, size: Size) -> list[str]:
        """Say why there are no latents of a record, cropped to a size; nothing if there are."""
        found = self._sizes[index]
        if found == list(size):
            return []
        said = f"of {found[0]}x{found[1]} pixels" if found else "none, as it could not be read then"
        return [
            f"data.latents={str(self._folder)!r} has latents {said}, and {size[0]}x{size[1]} are "
            "needed: delete it to make them anew"
        ]

    def read(self, index: int, size: Size) -> Float[np.ndarray, "2 h w C2"]:
        """Map the latents of a record, as it is and flipped: mean, then standard deviation.

        Args:
            index: of a record without `faults`.
            size: width and height of the cropped picture, in pixels.
        """
        shape = (size[1] // self._downscale, size[0] // self._downscale, self._array.shape[-1])
        flat = self._array[index].reshape(len(FLIPS), -1)
        return flat[:, : math.prod(shape)].reshape(len(FLIPS), *shape)


def write_latents(
    folder: Path,
    found: Iterable[tuple[int, Size, Float[np.ndarray, "2 h w C2"]]],
    source: Mapping[str, Any],
    *,
    records: int,
    size: Size,
    downscale: int,
    channels: int,
) -> None:
    """Write latents; the folder appears once it is complete.

    Args:
        found: number of a record, width and height of its cropped picture in pixels, and its
            latents, as it is and flipped. A record that does not come has none.
        source: what the latents are made of, as JSON can hold it.
        records: number of records in the data set.
        size: width and height of the largest picture, in pixels.
        downscale: how many pixels a side of the latents has for each of theirs.
        channels: of the latents, mean and standard deviation together.
    """
    shape = (records, len(FLIPS), size[1] // downscale, size[0] // downscale, channels)
    sizes: list[Size | None] = [None] * records
    with appearing(folder) as unfinished:
        array = np.lib.format.open_memmap(unfinished / ARRAY, "w+", np.float16, shape)
        for index, cropped, latents in found:
            count = latents[0].size
            array[index].reshape(len(FLIPS), -1)[:, :count] = latents.reshape(len(FLIPS), -1)
            sizes[index] = cropped
        array.flush()
        index = {"source": source, "sizes": sizes, "downscale": downscale}
        (unfinished / INDEX).write_text(json.dumps(index))
