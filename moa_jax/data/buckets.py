"""Aspect-ratio buckets: training pictures keep nearly their own shape, and a batch has one size.

The sizes have about resolution² pixels and an aspect of up to 2:1 either way. A picture goes to the
size that crops least of it. If even that one would crop more than a stated share, the picture is
not used.

Example i of the stream depends on the seed, on the batch size, on all pictures' sizes and on i. In
an epoch each bucket gives as many whole batches as its pictures fill. Those that fill none wait for
the next epoch and come first in it, so over the epochs all pictures are seen equally often. Nothing
here reads a file.
"""

import functools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from moa_jax.errors import InputError

MAX_ASPECT = 2  # of the sizes; a picture may be longer by what may be cropped of it
SIDE_UNIT = 64  # pixels; the U-Nets of Stable Diffusion 1.x and 2.x divide a side by this
CACHED_EPOCHS = 4  # threads that read ahead are in two at most

Size = tuple[int, int]  # width and height, in pixels


def bucket_sizes(resolution: int, unit: int = SIDE_UNIT) -> tuple[Size, ...]:
    """List the sizes of about resolution² pixels.

    From the square on, the next size is one unit wider or one unit lower, whichever has nearer to
    resolution² pixels (of two that are equally near, the smaller). Portraits mirror this.

    Args:
        resolution: side of the square in pixels, a multiple of `unit`.
        unit: each side is a multiple of this, in pixels.

    Returns:
        The sizes, those of most pixels first.

    Raises:
        InputError: the resolution is not a multiple of the unit.

    Example:
        >>> from moa_jax.data.buckets import bucket_sizes
        >>> [size for size in bucket_sizes(512) if size[0] >= size[1]]
        [(768, 384), (640, 448), (704, 384), (512, 512), (576, 448), (640, 384), (512, 448)]
    """
    if resolution % unit:
        raise InputError(
            f"resolution {resolution}: the sides of buckets, and so the square's, are multiples of "
            f"{unit} pixels"
        )
    width = height = resolution // unit
    square, wide = width * height, []
    while width <= MAX_ASPECT * height:
        wide.append((width * unit, height * unit))
        steps = [(width, height - 1), (width + 1, height)]
        width, height = min(steps[height == 1 :], key=lambda size: abs(size[0] * size[1] - square))
    tall = [(height, width) for width, height in wide[1:]]
    return tuple(sorted([*wide, *tall], key=lambda size: (-size[0] * size[1], -size[0])))


def cropped(picture: Size, size: Size) -> float:
    """Compute the share of a picture that is lost if it is cropped to the shape of a size."""
    one, other = picture[0] * size[1], picture[1] * size[0]
    return 1 - min(one, other) / max(one, other)


@dataclass(frozen=True)
class Fit:
    """The sizes that there are, and how much of a picture may be cropped.

    Attributes:
        sizes: in order of preference, where two crop the same.
        max_crop: share of a picture's pixels, from 0 to 1.
    """

    sizes: tuple[Size, ...]
    max_crop: float

    def choose(self, picture: Size) -> Size:
        """Choose the size that crops least of a picture."""
        return min(self.sizes, key=lambda size: cropped(picture, size))

    def fault(self, picture: Size) -> str | None:
        """Say why a picture cannot be used; None if it can."""
        size = self.choose(picture)
        lost = cropped(picture, size)
        if lost <= self.max_crop:
            return None
        return (
            f"{picture[0]}x{picture[1]} pixels: to the nearest size of the buckets, "
            f"{size[0]}x{size[1]}, {lost:.1%} of it would be cropped, more than "
            f"data.max_crop={self.max_crop} allows"
        )


@dataclass(frozen=True, eq=False)
class Buckets:
    """The records of a data set by the size that each is cropped to.

    Attributes:
        members: the numbers of the records of each size that has any; sizes of most pixels first.
        max_crop: the share that may be cropped.
        faults: what is wrong with each record that is in no bucket, by its name.
    """

    members: dict[Size, np.ndarray]
    max_crop: float = 1.0
    faults: dict[str, list[str]] = field(default_factory=dict)

    @property
    def sizes(self) -> list[Size]:
        """The sizes in use, those of most pixels first."""
        return list(self.members)

    @property
    def commonest(self) -> Size:
        """The size of most records."""
        return max(self.members, key=lambda size: len(self.members[size]))

    def digest(self) -> int:
        """Digest which record has which size: with it, a seed and a batch size, the order goes."""
        listed = [(size, found.tolist()) for size, found in self.members.items()]
        return zlib.crc32(repr(listed).encode())

    def described(self) -> str:
        """Say in a line how many pictures have each size, and how many have none."""
        counts = ", ".join(
            f"{width}x{height} {len(found):,}" for (width, height), found in self.members.items()
        )
        total = sum(map(len, self.members.values()))
        left = f"; left out: {len(self.faults):,}, for the reasons above" if self.faults else ""
        return f"{total:,} pictures in buckets: {counts}{left}"


def group(chosen: Sequence[Size | None]) -> dict[Size, np.ndarray]:
    """List the numbers of the records of each size, as `Buckets` wants it.

    Args:
        chosen: of each record, its size; None puts it into no bucket.
    """
    members: dict[Size, list[int]] = {}
    for number, size in enumerate(chosen):
        if size is not None:
            members.setdefault(size, []).append(number)
    order = sorted(members, key=lambda size: (-size[0] * size[1], -size[0]))
    return {size: np.array(members[size]) for size in order}


class BucketOrder:
    """Which record each example of the endless stream is."""

    def __init__(self, buckets: Buckets, batch_size: int, seed: int):
        """Prepare to find examples.

        Args:
            seed: from 0 to 2**32 - 1.

        Raises:
            InputError: no record is in a bucket.
        """
        import grain  # only here: it takes most of a second, and drawing needs none of it

        if not buckets.members:
            raise InputError(
                f"no picture is in a bucket (data.max_crop={buckets.max_crop}): raise "
                "data.max_crop, or set data.buckets=false to crop to squares"
            )
        self._sizes = buckets.sizes
        self._members = list(buckets.members.values())
        self._counts = [len(found) for found in self._members]
        self._batch_size, self._seed = batch_size, seed
        # A bucket's own order depends on its size, not on which other buckets there are.
        seeds = [np.random.SeedSequence([seed, *size]).generate_state(1)[0] for size in self._sizes]
        self._streams = [
            grain.MapDataset.range(count).shuffle(int(one)).repeat()
            for count, one in zip(self._counts, seeds, strict=True)
        ]
        self._schedule = functools.lru_cache(CACHED_EPOCHS)(self._make_schedule)

    def find(self, example: int) -> tuple[int, int]:
        """Find an example.

        Returns:
            The number of its bucket, and its place among the members of the bucket.
        """
        batch, row = divmod(example, self._batch_size)
        # Up to an epoch there are at most as many batches as its pictures fill: begin there.
        epoch = batch * self._batch_size // sum(self._counts)
        while sum(self._filled(epoch + 1)) <= batch:
            epoch += 1
        before = self._filled(epoch)
        bucket, earlier = self._schedule(epoch)[batch - sum(before)]
        place = (before[bucket] + earlier) * self._batch_size + row
        return bucket, int(self._streams[bucket][place])

    def candidates(self, example: int) -> Iterator[tuple[int, Size]]:
        """Give the records that an example may be, with their sizes; the first good one is it.

        They are those of its bucket, from its own place on. Those of the next buckets follow, so
        that a bucket of bad records alone does not stop a run: its batches get another size whole.
        """
        first, place = self.find(example)
        for bucket in (*range(first, len(self._sizes)), *range(first)):
            members = self._members[bucket]
            for skipped in range(len(members)):
                yield int(members[(place + skipped) % len(members)]), self._sizes[bucket]

    def _filled(self, epochs: int) -> list[int]:
        """Count the whole batches that each bucket has filled after some epochs."""
        return [epochs * count // self._batch_size for count in self._counts]

    def _make_schedule(self, epoch: int) -> list[tuple[int, int]]:
        """Order the batches of an epoch.

        Returns:
            Of each batch, its bucket, and how many batches that bucket has before it in the epoch.
        """
        ends = zip(self._filled(epoch), self._filled(epoch + 1), strict=True)
        buckets = np.repeat(np.arange(len(self._sizes)), [end - start for start, end in ends])
        np.random.default_rng([self._seed, epoch]).shuffle(buckets)
        if epoch == 0 and len(buckets):
            # The largest size shows at the first step whether it fits into the memory.
            largest = int(np.argmin(buckets))
            buckets[[0, largest]] = buckets[[largest, 0]]
        seen = [0] * len(self._sizes)
        schedule = []
        for bucket in buckets.tolist():
            schedule.append((bucket, seen[bucket]))
            seen[bucket] += 1
        return schedule
