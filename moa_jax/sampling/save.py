"""Write what was drawn: pictures, figures of who drew where, and what it takes to draw again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from moa_jax.figures import (
    attention_figure,
    image_grid,
    routing_figure,
    routing_frames,
    save_animation,
    share_figure,
)
from moa_jax.sampling.arrays import save_arrays
from moa_jax.sampling.compiled import Result
from moa_jax.sampling.record import write_json, write_png


def save_result(
    result: Result,
    folder: str | Path,
    stem: str = "picture",
    record: Mapping[str, Any] | None = None,
    *,
    animation: str | None = None,
    subjects: Sequence[str] = (),
    look: bool = False,
    others: Mapping[str, Image.Image] | None = None,
) -> None:
    """Write a result as `sample.py` does.

    The pictures are `STEM-00.png` and so on, with a `STEM-grid.png` if there are several. With MoA,
    `STEM-00-routing.png` and so on show where the personalized expert drew each picture.

    Args:
        folder: an existing folder.
        stem: how the names of all files begin.
        record: what it takes to draw the pictures again, see `write_png`. It is written into each
            picture, and as `STEM.json`. None means that no record is written.
        animation: "gif", "webp" or "mp4" if the pictures are frames. They are then written as a
            moving picture and as a strip, instead of a grid. None means that they are no frames.
        subjects: the subjects' names, for the figures of `look`, in the order of the request.
        look: also write all that was seen of the network: the arrays as `STEM.npz`, and for each
            picture its routing over the steps, its shares and its attention.
        others: further pictures, each written as `STEM-NAME.png`.

    Raises:
        InputError: a file cannot be written.
    """
    folder = Path(folder)
    for index, image in enumerate(result.images):
        file = folder / f"{stem}-{index:02d}.png"
        if record is None:
            image.save(file)
        else:
            # With the seed, the index gives this picture's noise.
            write_png(image, file, {**record, "image_index": index})
    if animation:
        image_grid(result.images, columns=len(result.images)).save(folder / f"{stem}-frames.png")
        save_animation(result.images, folder / f"{stem}.{animation}", bounce=True)
    elif len(result.images) > 1:
        image_grid(result.images).save(folder / f"{stem}-grid.png")
    for name, picture in (others or {}).items():
        picture.save(folder / f"{stem}-{name}.png")
    if result.routing:
        for index in range(len(result.images)):
            _save_figures(result, index, folder / f"{stem}-{index:02d}", subjects, look)
    if look and result.routing:
        save_arrays(folder / f"{stem}.npz", result.routing, result.attention, result.timesteps)
    if record is not None:
        write_json(folder / f"{stem}.json", record)


def _save_figures(
    result: Result, index: int, start: Path, subjects: Sequence[str], look: bool
) -> None:
    """Write a figure of where the personalized expert drew a picture; with `look`, all figures."""
    image = result.images[index]
    routing_figure(image, result.routing, index).save(f"{start}-routing.png")
    if not look:
        return
    save_animation(routing_frames(image, result.routing, index), f"{start}-routing.gif")
    if subjects and result.attention:
        seen = (result.attention, index, subjects)
        share_figure(result.routing, *seen).save(f"{start}-share.png")
        attention_figure(image, *seen).save(f"{start}-attention.png")
