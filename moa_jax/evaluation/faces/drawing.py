"""Draw the pictures that are not there yet, each with a record of how it was drawn.

A picture's noise depends on the seed, its prompt and its number: not on whom it shows, so that
people are compared on the same noise, nor on the batch, so that a run can be stopped and gone on
with anywhere. A batch is split over as many devices of this host as divide it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from moa_jax.errors import InputError
from moa_jax.evaluation.faces.protocol import Trial
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.sampling.record import read_record, write_png
from moa_jax.sampling.request import stack
from moa_jax.sampling.settings import Settings
from moa_jax.sampling.start import latent_shape

NAMES = ("base", "moa")  # in a record: for people, as its fingerprints tell what they were
A_DEVICE = 4  # pictures at once on each device, unless asked for


@dataclass(frozen=True, eq=False)
class Run:
    """What all pictures of a folder share.

    Attributes:
        record: everything that decides a picture besides its trial, for people to read.
        folder: where the pictures are.
    """

    folder: Path
    seed: int
    record: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """Tell this run from one with other weights or settings."""
        decides = {name: each for name, each in self.record.items() if name not in NAMES}
        return _digest(json.dumps(decides, sort_keys=True, default=str).encode())

    def file(self, trial: Trial) -> Path:
        """Say where a trial's picture is, or will be."""
        return self.folder / f"{trial.name}.png"

    def picture_key(self, trial: Trial) -> str:
        """Tell a picture from one of other weights, settings, words or references."""
        shown = [_of_file(person.pictures[0]) for person in trial.people]
        return _digest(*(part.encode() for part in (self.key, trial.marked, trial.name, *shown)))


def missing(run: Run, trials: Sequence[Trial]) -> list[Trial]:
    """List the trials whose pictures are still to be drawn.

    Raises:
        InputError: the folder holds pictures of another run.
    """
    return [trial for trial in trials if not _is_drawn(run, trial)]


def draw(
    pipeline: Pipeline,
    run: Run,
    trials: Sequence[Trial],
    settings: Settings,
    size: tuple[int | None, int | None] = (None, None),
    batch_size: int | None = None,
    on_pictures: Callable[[int], None] | None = None,
) -> None:
    """Draw and write the picture of each trial.

    Args:
        size: height and width, in pixels; None means the checkpoint's own.
        batch_size: pictures at once; None means A_DEVICE for each device.
        on_pictures: called with the number of pictures that were just written.

    Raises:
        InputError: a reference cannot be read, a prompt cannot be served by the weights, or a
            picture cannot be written.
    """
    devices = jax.local_devices()
    count = batch_size or A_DEVICE * len(devices)
    if count < 1:
        raise InputError(f"--batch-size {count}: must be 1 or more")
    share = max(n for n in range(1, len(devices) + 1) if count % n == 0)
    if share > 1:
        pipeline.spread(devices[:share])
    shape = latent_shape(pipeline.base, *size, count)
    for batch in _batches(trials, count):
        # Repeated to one size, so that one program draws all batches.
        padded = [*batch, *batch[-1:] * (count - len(batch))]
        request = stack([_request(pipeline, trial) for trial in padded])
        keys = jnp.stack([_noise_key(run.seed, trial) for trial in padded])
        latents = jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)
        images = pipeline.draw(request, latents, keys, settings).images
        for trial, image in zip(batch, images, strict=False):
            _write(run, trial, image)
        if on_pictures:
            on_pictures(len(batch))


def _batches(trials: Sequence[Trial], count: int) -> list[list[Trial]]:
    """Split trials into batches; those of one person and of two are different programs."""
    found = []
    for people in (1, 2):
        group = [trial for trial in trials if len(trial.people) == people]
        found += [group[i : i + count] for i in range(0, len(group), count)]
    return found


def _request(pipeline: Pipeline, trial: Trial) -> Any:
    if pipeline.model is None:  # plain Stable Diffusion sees nobody
        return pipeline.request(trial.caption, plain_prompt=True)
    shown = [person.pictures[0] for person in trial.people]
    return pipeline.request(trial.marked, shown, plain_prompt=True)


def _noise_key(seed: int, trial: Trial) -> Any:
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.key(seed), trial.prompt.index), trial.picture
    )


def _is_drawn(run: Run, trial: Trial) -> bool:
    file = run.file(trial)
    if not file.is_file():
        return False
    record = read_record(file)
    if record.get("run") != run.key:
        raise InputError(
            f"{file} was drawn by other weights or settings than this command's: give another --out"
        )
    return record["picture"] == run.picture_key(trial)


def _write(run: Run, trial: Trial, image: Any) -> None:
    file = run.file(trial)
    own = {"prompt": trial.marked, "run": run.key, "picture": run.picture_key(trial)}
    unfinished = file.with_suffix(".unfinished")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(image, unfinished, {**run.record, **own, "image_index": trial.picture})
        unfinished.replace(file)  # in one step: a killed run leaves no half picture
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error}") from error


@cache  # a reference is shown in many pictures
def _of_file(file: Path) -> str:
    return _digest(file.read_bytes())


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
