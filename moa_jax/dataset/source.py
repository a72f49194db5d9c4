"""The folder of photographs: its pictures, and what somebody has written about them already.

- `metadata.jsonl` as in `moa_jax.data.imagefolder`. A row with `subjects` is made by hand and is
  taken over as it is; a row with only `text` gives the caption.
- `NAME.txt` beside the picture `NAME.jpg` gives its caption, in one line or several.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from moa_jax.data.captions import IMAGE_MARKER
from moa_jax.data.imagefolder import METADATA
from moa_jax.data.images import load_image
from moa_jax.errors import InputError
from moa_jax.extension import import_extra

HEIF = (".heic", ".heif")
ENDINGS = (*HEIF, *".jpg .jpeg .png .webp .bmp .tif .tiff .gif .avif".split())
KEPT_FORMATS = ("JPEG", "PNG", "WEBP")  # whose files are copied; others are written as PNG
KEPT_MODES = ("RGB", "RGBA", "L", "LA", "P", "1")


@dataclass(frozen=True)
class Photograph:
    """A picture of the source.

    Attributes:
        name: its path in the source, with "/".
        caption: that somebody has written; None if nobody has.
        row: the whole row that somebody has written, with its subjects; None if nobody has.
        stamp: changes when the picture, its caption or its row does.
    """

    name: str
    file: Path
    caption: str | None
    row: dict[str, Any] | None
    stamp: str


def scan(folder: Path) -> list[Photograph]:
    """List the pictures of a folder and of those inside it, in the order of their names.

    Files whose name begins with a dot are left out, as are the masks and references that
    `metadata.jsonl` names, unless they have a row of their own.

    Raises:
        InputError: there is no such folder or no picture in it; or a row of `metadata.jsonl` is
            no such row, or names a picture that is not there.
    """
    if not folder.is_dir():
        raise InputError(f"SRC {str(folder)!r} is not a folder; give the folder of your pictures")
    rows = _read_rows(folder)
    named = {name for row in rows.values() for name in files_of(row)} - rows.keys()
    pictures = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if file.suffix.lower() in ENDINGS and not hidden and name.as_posix() not in named:
            pictures[name.as_posix()] = file
    if absent := [name for name in rows if name not in pictures]:
        raise InputError(
            f"{folder / METADATA}: there is no picture {absent[0]!r} (and {len(absent) - 1} more); "
            "mend its rows, or take them out"
        )
    if not pictures:
        raise InputError(f"SRC {str(folder)!r} has no pictures ({' '.join(ENDINGS)})")
    return [_photograph(folder, name, file, rows.get(name)) for name, file in pictures.items()]


def files_of(row: dict[str, Any]) -> list[str]:
    """List the masks and references of a row, as paths in its folder."""
    found = []
    for subject in row.get("subjects", ()):
        if isinstance(subject, dict):
            references = subject.get("reference", [])
            references = references if isinstance(references, list) else [references]
            entries = [each for each in references if isinstance(each, dict)]
            found += [each for each in references if isinstance(each, str)]
            found += [each[key] for each in entries for key in ("image", "mask") if key in each]
            found += [subject["mask"]] if "mask" in subject else []
    return [name for name in found if isinstance(name, str)]


def load_photograph(file: Path) -> tuple[Image.Image, bool]:
    """Read a picture as 8-bit RGB, upright.

    Returns:
        The picture, and whether its file can be taken over as it is.

    Raises:
        InputError: as `load_image`; it is animated; or it is HEIC, and pillow-heif is missing.
    """
    if file.suffix.lower() in HEIF:
        remedy = "pip install pillow-heif, or save the picture as JPEG"
        import_extra("pillow_heif", f"{file.name}, an HEIC picture,", remedy).register_heif_opener()
    image = load_image(file)
    with Image.open(file) as opened:
        frames = getattr(opened, "n_frames", 1)
        if frames > 1 and opened.format != "MPO":  # a photo with its preview, as phones write
            raise InputError(f"{file}: has {frames} frames; save the one that you want by itself")
        kept = opened.format in KEPT_FORMATS and opened.mode in KEPT_MODES
    return image, kept


def _photograph(folder: Path, name: str, file: Path, row: dict[str, Any] | None) -> Photograph:
    text = file.with_suffix(".txt")
    caption = None if row is None else row.get("text")
    if caption is None and text.is_file():
        caption = " ".join(text.read_text(encoding="utf-8", errors="replace").split()) or None
    by_hand = row if row is not None and "subjects" in row else None
    files = [file, *(folder / each for each in files_of(by_hand or {}))]
    stats = [each.stat() if each.is_file() else None for each in files]
    state = [stat and (stat.st_size, stat.st_mtime_ns) for stat in stats]
    stamp = hashlib.sha256(json.dumps([state, caption, by_hand]).encode()).hexdigest()[:16]
    if caption is not None and by_hand is None:
        caption = caption.replace(IMAGE_MARKER, "").strip() or None
    return Photograph(name, file, caption, by_hand, stamp)


def _read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what `metadata.jsonl` says of each picture; nothing if there is none."""
    listing = folder / METADATA
    rows: dict[str, dict[str, Any]] = {}
    lines = listing.read_bytes().splitlines() if listing.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{listing} line {number}"
        try:
            row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
        except ValueError as error:
            raise InputError(f"{place}: not JSON ({error}); mend it, or take it out") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise InputError(f"{place}: must be an object with file_name; mend it")
        if not isinstance(row.get("text", ""), str) or not isinstance(
            row.get("subjects", []), list
        ):
            raise InputError(f"{place}: text must be a string and subjects a list; mend it")
        name = Path(row["file_name"]).as_posix()
        if name in rows:
            raise InputError(f"{place}: {name!r} has a row already; keep one of them")
        rows[name] = row
    return rows
