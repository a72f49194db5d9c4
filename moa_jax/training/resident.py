"""Training data in the devices' memory, where a batch is read without waiting for the host.

Small networks on a fast device would otherwise wait for the threads that make their examples. Every
device holds all of the data, so it has to fit beside the model.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float16, Int, Key

from moa_jax.config import DataConfig
from moa_jax.data.captions import Tokenizer, encode_caption, encode_words
from moa_jax.data.encoded import EncodedRecords
from moa_jax.errors import InputError
from moa_jax.training.mesh import BATCH, replicated
from moa_jax.training.step import Batch, stream

# (arrays, row numbers, more) -> a batch
Read = Callable[..., Mapping[str, Any]]


def resident(arrays: Mapping[str, np.ndarray], read: Read, mesh: Mesh) -> Callable[..., Batch]:
    """Copy arrays to all devices.

    Args:
        arrays: the arrays, by name.
        read: makes a batch from (arrays, row numbers, more arguments) with jax's operations.

    Returns:
        `read` without its first argument; its batches are split over the devices.
    """
    placed = jax.device_put(dict(arrays), replicated(mesh))
    compiled = jax.jit(read, out_shardings=NamedSharding(mesh, BATCH))
    return lambda *arguments: compiled(placed, *arguments)


class ResidentLoader:
    """Endless batches of an encoded data set, used in place of `moa_jax.data.loader.Loader`.

    Rows are drawn without replacement within an epoch. The devices draw which captions and subjects
    are left out. Batch n depends on the seed and on n alone.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        mesh: Mesh,
        *,
        max_subjects: int,
        batch_size: int,
        seed: int,
    ) -> None:
        """Read the data set into memory.

        Raises:
            InputError: it is smaller than a batch, or a record has subjects to choose from.
        """
        arrays = encoded_arrays(config, tokenizer, max_subjects)
        self._count, self._size, self._seed = len(arrays["latents"]), batch_size, seed
        if self._count < batch_size:
            raise InputError(
                f"train.batch_size={batch_size}: data.resident draws no picture twice in an epoch, "
                f"and {config.encoded!r} holds {self._count}"
            )
        empty = encode_caption(tokenizer, "").input_ids

        def read(arrays: Any, rows: Array, key: Array) -> Batch:
            arrays = dict(arrays)
            references = arrays.pop("references", None)
            taken = {name: array[rows] for name, array in arrays.items()}
            if references is not None:
                # Of another number than the two keys that `drop` makes of this one.
                own = jax.random.fold_in(key, 2)
                taken |= show(taken, references, own, config.reference_probability)
            return drop(taken, key, empty, config.condition_dropout, config.subject_dropout)

        self._read = resident(arrays, read, mesh)
        self._key = stream(seed, "data")
        self._place, self._epoch, self._order = 0, -1, np.arange(0)

    def __next__(self) -> Batch:
        """Give the next batch, on the devices."""
        epoch, index = divmod(self._place, self._count // self._size)
        if epoch != self._epoch:
            self._epoch = epoch
            # Of the seed and the epoch alone, so that a resumed run draws the same order.
            self._order = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        rows = self._order[index * self._size : (index + 1) * self._size]
        batch = self._read(rows.astype(np.int32), jax.random.fold_in(self._key, self._place))
        self._place += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Give the place: the number of batches so far."""
        return {"batches": self._place}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go to a place that `get_state` gave."""
        self._place = int(state["batches"])

    def close(self) -> None:
        """Do nothing: there is no thread to stop."""


def encoded_arrays(
    config: DataConfig, tokenizer: Tokenizer, max_subjects: int
) -> dict[str, np.ndarray]:
    """Lay out an encoded data set like the batch of a step, with nothing left out.

    Returns:
        The arrays, with a row for each record. "first_reference" and "reference_count" tell which
        rows of the array "references" a subject has; without any, there is no such array.

    Raises:
        InputError: a record has subjects to choose from, which only the loader does.
    """
    records = EncodedRecords(config.encoded)
    rows: list[dict[str, np.ndarray]] = []
    references: list[np.ndarray] = []
    for number, record in enumerate(records[i] for i in range(len(records))):
        shown = [place for place, subject in enumerate(record.subjects) if subject.mask.any()]
        by_word = {record.subjects[place].end: place for place in shown}
        count = len(by_word)
        if record.sample_subjects or count > max_subjects:
            raise InputError(
                f"data.resident=True: {max_subjects} of the {count} subjects of record {number} of "
                f"{config.encoded!r} are chosen anew each time, which only the loader does: set "
                "data.resident=false"
            )
        ends, places = sorted(by_word), [by_word[end] for end in sorted(by_word)]
        said = encode_words(tokenizer, record.caption, ends)
        row = {
            "latents": record.latents,
            "features": np.zeros((max_subjects, record.features.shape[1]), np.float16),
            "masks": np.zeros((max_subjects, config.resolution, config.resolution), np.uint8),
            "subject_tokens": np.full(max_subjects, len(said.input_ids), np.int32),
            "subject_present": np.arange(max_subjects) < count,
            "input_ids": said.input_ids,
            "first_reference": np.zeros(max_subjects, np.int32),
            "reference_count": np.zeros(max_subjects, np.int32),
        }
        row["features"][:count] = record.features[places]
        row["subject_tokens"][:count] = said.subject_tokens
        for slot, place in enumerate(places):
            subject = record.subjects[place]
            row["masks"][slot] = subject.mask
            row["first_reference"][slot] = len(references)
            row["reference_count"][slot] = len(subject.references)
            references += subject.references
        rows.append(row)
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if references:
        arrays["references"] = np.stack(references)
    return arrays


def show(
    batch: Mapping[str, Array],
    references: Float16[Array, "n F"],
    key: Key[Array, ""],
    probability: float,
) -> Batch:
    """Draw by which picture each subject is shown, as `draw_references` does on the host.

    Args:
        batch: rows of `encoded_arrays`.
        references: its array of that name.
        probability: see `data.reference_probability`.

    Returns:
        "features", in place of those of the subjects' own crops.
    """
    count: Int[Array, "B K"] = batch["reference_count"]
    whether, which = jax.random.split(key)
    drawn = jax.random.bernoulli(whether, probability, count.shape) & (count > 0)
    place = batch["first_reference"] + jax.random.randint(
        which, count.shape, 0, jnp.maximum(count, 1)
    )
    place = jnp.where(drawn, place, 0)
    return {"features": jnp.where(drawn[..., None], references[place], batch["features"])}


def drop(
    batch: Mapping[str, Array],
    key: Key[Array, ""],
    empty: Int[np.ndarray, " S"],
    condition_dropout: float,
    subject_dropout: float,
) -> Batch:
    """Drop some captions with their subjects, and some other subjects; move the rest to the front.

    Args:
        batch: rows of `encoded_arrays`.
        empty: token ids of the empty caption.
        condition_dropout: share of the captions that are dropped; see `DataConfig`.
        subject_dropout: share that is dropped of the other captions' subjects.
    """
    present: Bool[Array, "B K"] = batch["subject_present"]
    of_captions, of_subjects = jax.random.split(key)
    said = ~jax.random.bernoulli(of_captions, condition_dropout, present.shape[:1])
    kept = ~jax.random.bernoulli(of_subjects, subject_dropout, present.shape)
    kept &= present & said[:, None]
    order = jnp.argsort(~kept, axis=1, stable=True)

    def sort(array: Array, nothing: int) -> Array:
        shape = (*kept.shape, *[1] * (array.ndim - 2))
        filled = jnp.where(kept.reshape(shape), array, jnp.asarray(nothing, array.dtype))
        return jnp.take_along_axis(filled, order.reshape(shape), axis=1)

    return {
        "latents": batch["latents"],
        "features": sort(batch["features"], 0),
        "masks": sort(batch["masks"], 0),
        "subject_tokens": sort(batch["subject_tokens"], len(empty)),
        "subject_present": sort(kept, 0),
        "input_ids": jnp.where(said[:, None], batch["input_ids"], jnp.asarray(empty)),
    }
