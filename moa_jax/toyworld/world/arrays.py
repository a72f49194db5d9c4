"""Scenes on disk as arrays, rendered once by many processes, and batches of their rows.

A folder holds one file for each array. An array has a row for each scene; only `portraits` has one
for each group of four (see `training_scene`). The folder appears complete or not at all.
"""

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from moa_jax.cli import track
from moa_jax.data.captions import caption_length, encode_caption
from moa_jax.errors import InputError
from moa_jax.toyworld.world.labels import PEOPLE, SHAPES, label
from moa_jax.toyworld.world.scenes import GROUP, render, render_portrait, training_scene

CHUNK = 128  # scenes that one task renders
CARD = "scenes.json"
CAPTIONS = ("input_ids", "described_ids")  # tokens of a scene's caption and of its description
IDENTIFYING = 64  # scenes that tell one stream from another

Arrays = dict[str, np.ndarray]
Read = Callable[[Int[np.ndarray, " n"]], Mapping[str, np.ndarray]]


def write_scenes(
    folder: Path, count: int, seed: int, size: int, tokenizer: Any, workers: int | None = None
) -> None:
    """Render the first scenes of a stream, unless the folder is there.

    Writes pictures [count, size, size, 3] uint8; masks [count, PEOPLE, size, size] bool, empty for
    nobody; input_ids and described_ids [count, S] int32, of the caption and of the description;
    portraits [count / 4, PEOPLE, size, size, 3] uint8, of the people of each group's first scene;
    and the arrays of `moa_jax.toyworld.world.labels`.

    Args:
        workers: number of processes; None means one per core.

    Raises:
        InputError: the folder holds other scenes, or `count` is no multiple of a group's four.
    """
    if count < GROUP or count % GROUP:
        raise InputError(f"a count of {count} scenes is not a multiple of {GROUP}")
    card = {"count": count, "seed": seed, "size": size, "length": caption_length(tokenizer)}
    card["first"] = _fingerprint(seed, size)
    if folder.exists():
        found = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if found != card:
            raise InputError(f"{str(folder)!r} holds {found}, not {card}: remove it to render anew")
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    shapes = {
        "pictures": ((count, size, size, 3), np.uint8),
        "masks": ((count, PEOPLE, size, size), np.bool_),
        "portraits": ((count // GROUP, PEOPLE, size, size, 3), np.uint8),
        **dict.fromkeys(CAPTIONS, ((count, card["length"]), np.int32)),
        **{name: ((count, *shape), kind) for name, (shape, kind) in SHAPES.items()},
    }
    arrays = {name: create(unfinished / f"{name}.npy", *shape) for name, shape in shapes.items()}
    encode = cache(lambda caption: encode_caption(tokenizer, caption).input_ids)
    tasks = [(unfinished, seed, first, size) for first in range(0, count, CHUNK)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        chunks = track(pool.map(_render, tasks), f"rendering {count} scenes", len(tasks))
        for (_, _, first, _), captions in zip(tasks, chunks, strict=True):
            for row, said in enumerate(captions, start=first):
                for name, caption in zip(CAPTIONS, said, strict=True):
                    arrays[name][row] = encode(caption)
    for array in arrays.values():
        array.flush()
    (unfinished / CARD).write_text(json.dumps(card) + "\n", encoding="utf-8")
    unfinished.rename(folder)


def open_scenes(folder: Path) -> Arrays:
    """Map the arrays of a folder into memory, by name.

    Raises:
        InputError: the folder holds no scenes.
    """
    if not (folder / CARD).is_file():
        raise InputError(f"{str(folder)!r} holds no scenes: run the stage 'scenes' first")
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}


def create(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Make an array on disk, all zero, to be filled in place."""
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def of_scenes(arrays: Mapping[str, Any], rows: Int[Any, " B"]) -> dict[str, Any]:
    """Read some scenes: their rows of every array, "B ..."."""
    return {name: array[rows] for name, array in arrays.items()}


def of_groups(arrays: Mapping[str, Any], groups: Int[Any, " G"]) -> dict[str, Any]:
    """Read entire groups: every array as "G 4 ...", `portraits` as "G ..."."""
    scenes = groups[:, None] * GROUP + np.arange(GROUP)[None]
    return {
        name: array[groups if name == "portraits" else scenes] for name, array in arrays.items()
    }


class RowBatches:
    """Endless batches of an array's rows, each epoch in an order of its own."""

    def __init__(self, read: Read, count: int, batch_size: int, seed: int) -> None:
        """Start at the first epoch.

        Args:
            read: makes a batch from row numbers.
            count: number of rows; each epoch leaves out those that do not fill a batch.

        Raises:
            InputError: a batch is empty, or larger than the number of rows.
        """
        if not 1 <= batch_size <= count:
            raise InputError(f"batch_size={batch_size} must be 1 to {count}, what there is")
        self._read, self._count, self._size, self._seed = read, count, batch_size, seed
        self._place, self._epoch, self._order = 0, -1, np.arange(0)

    def __next__(self) -> Mapping[str, np.ndarray]:
        """Give the next batch."""
        epoch, index = divmod(self._place, self._count // self._size)
        if epoch != self._epoch:
            self._epoch = epoch
            # By seed and epoch alone, so that a resumed run draws the same order.
            self._order = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        self._place += 1
        # Sorted, for the disk: within a batch the order means nothing.
        return self._read(np.sort(self._order[index * self._size : (index + 1) * self._size]))

    def get_state(self) -> dict[str, Any]:
        """Give the number of batches given."""
        return {"place": self._place}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a place."""
        self._place = state["place"]


class InTurn:
    """Batches of one kind, and after them batches of another."""

    def __init__(self, first: RowBatches, then: RowBatches, switch: int) -> None:
        """Take the first `switch` batches from `first`, and the others from `then`."""
        self._first, self._then, self._switch, self._place = first, then, switch, 0

    def __next__(self) -> Mapping[str, np.ndarray]:
        """Give the next batch."""
        self._place += 1
        return next(self._first if self._place <= self._switch else self._then)

    def get_state(self) -> dict[str, Any]:
        """Give the number of batches given."""
        return {"place": self._place}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a place."""
        self._place = state["place"]
        self._first.set_state({"place": min(self._place, self._switch)})
        self._then.set_state({"place": max(0, self._place - self._switch)})


def _fingerprint(seed: int, size: int) -> str:
    """Identify a stream by its first scenes and pictures, so that a change of the world shows."""
    digest = hashlib.sha256()
    for index in range(IDENTIFYING):
        scene = training_scene(seed, index)
        digest.update(repr(scene).encode() + render(scene, size)[0].tobytes())
    return digest.hexdigest()


def _render(task: tuple[Path, int, int, int]) -> list[tuple[str, str]]:
    """Render a chunk into the arrays on disk; give its captions and descriptions."""
    folder, seed, first, size = task
    names = ("pictures", "masks", "portraits", *SHAPES)
    # All processes write into the same files, each into rows of its own.
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in names}
    captions = []
    for row in range(first, min(first + CHUNK, len(arrays["pictures"]))):
        scene = training_scene(seed, row)
        picture, masks = render(scene, size)
        arrays["pictures"][row] = picture
        arrays["masks"][row, : len(masks)] = masks
        if row % GROUP == 0:
            for place, look in enumerate(scene.people):
                arrays["portraits"][row // GROUP, place] = render_portrait(look, row, size)
        for name, numbers in label(scene).items():
            arrays[name][row] = numbers
        captions.append((scene.caption, scene.description))
    return captions
