"""The data set's folder: pictures, masks and listings, each written whole or not at all."""

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from moa_jax.dataset.models import Mask
from moa_jax.dataset.source import Photograph
from moa_jax.errors import InputError

STATE = "build.json"
PARTS = ("images", "converted", "masks", "by_hand")  # the folders of pictures and masks


class Folder:
    """The folder that is built; its methods may be called by threads."""

    def __init__(self, path: Path) -> None:
        """Name the folder; `start` makes it."""
        self.path = path

    def start(self, state: dict[str, Any]) -> None:
        """Make the folder, or take up one that was begun with the same state.

        Args:
            state: all that decides what is built, by name.

        Raises:
            InputError: the folder holds something else, or was begun with another state.
        """
        file = self.path / STATE
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            changed = [key for key in {**found, **state} if found.get(key) != state.get(key)]
            if changed:
                told = "; ".join(f"{k} {found.get(k)} (now {state.get(k)})" for k in changed)
                raise InputError(
                    f"DST {str(self.path)!r} was built with another {told}: give the same options, "
                    "name another folder, or delete it"
                )
            return
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(
                f"DST {str(self.path)!r} is not empty and has no {STATE}; name a new one"
            )
        self.write(STATE, json.dumps(state, indent=2).encode() + b"\n")

    def write(self, name: str, data: bytes) -> None:
        """Write a file under another name, then give it its own."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.{threading.get_ident()}.unfinished")
        unfinished.write_bytes(data)
        os.replace(unfinished, file)

    def save_picture(self, photograph: Photograph, image: Image.Image, kept: bool) -> str:
        """Copy a picture's file, or write its pixels as PNG; give its path in the folder."""
        if kept:
            name = f"images/{photograph.name}"
            self.write(name, photograph.file.read_bytes())
        else:
            name = f"converted/{photograph.name}.png"
            self.write(name, encode_png(image))
        return name

    def save_mask(self, name: str, count: int, mask: Mask) -> str:
        """Write a mask as PNG of one bit; give its path in the folder."""
        path = f"masks/{name}.{count}.png"
        self.write(path, encode_png(Image.fromarray(mask)))
        return path

    def copy_files(self, root: Path, value: Any) -> Any:
        """Copy the files that a subject by hand names, and give it with their new paths."""
        if isinstance(value, list):
            return [self.copy_files(root, each) for each in value]
        if isinstance(value, dict):
            named = ("mask", "image", "reference")
            return {k: self.copy_files(root, v) if k in named else v for k, v in value.items()}
        name = f"by_hand/{value}"
        self.write(name, (root / value).read_bytes())
        return name

    def write_lines(self, name: str, rows: Iterable[Any]) -> None:
        """Write a file with a line of JSON for each row."""
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.write(name, "".join(lines).encode(errors="surrogatepass"))

    def remove_all_but(self, named: set[str]) -> None:
        """Remove pictures and masks that no row names, such as those of a picture since deleted."""
        for part in PARTS:
            for file in list((self.path / part).rglob("*")):
                if file.is_file() and file.relative_to(self.path).as_posix() not in named:
                    file.unlink()
            if (self.path / part).is_dir() and not any(
                each.is_file() for each in (self.path / part).rglob("*")
            ):
                shutil.rmtree(self.path / part)


def encode_png(image: Image.Image) -> bytes:
    """Give a picture as the bytes of a PNG file."""
    file = BytesIO()
    image.save(file, format="PNG", compress_level=3)  # half the time of the default, a bit larger
    return file.getvalue()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Word the error of a disk that is full or cannot be written.

    Raises:
        InputError: a write inside failed.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"DST {str(folder)!r} cannot be written: {error}. What was done is kept: make "
            "room, and the same command goes on"
        ) from error
