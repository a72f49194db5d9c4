"""Write what was drawn: pictures, figures of who drew where, and what it takes to draw again."""

from collections.abc import Iterator, Mapping, Sequence
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
from moa_jax.sampling.credentials import Credentials, open_credentials
from moa_jax.sampling.record import write_json, write_png

PHOTO = "photo"  # name of the one picture that no model drew


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
    from_photo: bool | None = None,
    credentials: Credentials | bool = True,
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
        others: further pictures, each written as `STEM-NAME.png`; "photo" is one that was given.
        from_photo: whether the pictures come from a photo; None means that the record's `image`
            tells.
        credentials: what signs every drawn picture, see `moa_jax.sampling.credentials`. True means
            `open_credentials()`, which signs if the extra `credentials` is installed; False means
            that none is signed.

    Raises:
        InputError: a file cannot be written or signed.
    """
    folder = Path(folder)
    signer = open_credentials(credentials) if isinstance(credentials, bool) else credentials
    photo = bool((record or {}).get("image")) if from_photo is None else from_photo
    for file in _write(result, folder, stem, record, animation, others or {}, subjects, look):
        if signer is not None:
            signer.sign(file, photo=photo, record=record)
    if look and result.routing:
        save_arrays(folder / f"{stem}.npz", result.routing, result.attention, result.timesteps)
    if record is not None:
        write_json(folder / f"{stem}.json", record)


def _write(
    result: Result,
    folder: Path,
    stem: str,
    record: Mapping[str, Any] | None,
    animation: str | None,
    others: Mapping[str, Image.Image],
    subjects: Sequence[str],
    look: bool,
) -> Iterator[Path]:
    """Write all pictures and figures, and give each file that shows what was drawn."""
    for index, image in enumerate(result.images):
        file = folder / f"{stem}-{index:02d}.png"
        if record is None:
            image.save(file)
        else:
            # With the seed, the index gives this picture's noise.
            write_png(image, file, {**record, "image_index": index})
        yield file
    if animation:
        image_grid(result.images, columns=len(result.images)).save(folder / f"{stem}-frames.png")
        save_animation(result.images, folder / f"{stem}.{animation}", bounce=True)
        yield from (folder / f"{stem}-frames.png", folder / f"{stem}.{animation}")
    elif len(result.images) > 1:
        image_grid(result.images).save(folder / f"{stem}-grid.png")
        yield folder / f"{stem}-grid.png"
    for name, picture in others.items():
        picture.save(folder / f"{stem}-{name}.png")
        yield from [folder / f"{stem}-{name}.png"] if name != PHOTO else []
    if result.routing:
        for index in range(len(result.images)):
            yield from _save_figures(result, index, folder / f"{stem}-{index:02d}", subjects, look)


def _save_figures(
    result: Result, index: int, start: Path, subjects: Sequence[str], look: bool
) -> Iterator[Path]:
    """Write a figure of where the personalized expert drew a picture; with `look`, all figures.

    Returns:
        The files that show the picture.
    """
    image = result.images[index]
    routing_figure(image, result.routing, index).save(f"{start}-routing.png")
    yield Path(f"{start}-routing.png")
    if not look:
        return
    save_animation(routing_frames(image, result.routing, index), f"{start}-routing.gif")
    yield Path(f"{start}-routing.gif")
    if subjects and result.attention:
        seen = (result.attention, index, subjects)
        share_figure(result.routing, *seen).save(f"{start}-share.png")
        attention_figure(image, *seen).save(f"{start}-attention.png")
        yield Path(f"{start}-attention.png")
