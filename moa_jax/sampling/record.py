"""Pictures that say how to make them again: a record in the PNG itself, as text chunks.

The chunk `moa_jax` holds the entire record as JSON. The chunk `parameters` holds the part that
other programs know, in the form of AUTOMATIC1111's web UI, which picture browsers and sharing sites
read. Nothing here depends on a model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from moa_jax import __version__
from moa_jax.errors import InputError

FORMAT = 1  # of a record; a later one may hold what this version cannot draw again
CHUNK = "moa_jax"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLER_LABELS = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "euler_a": "Euler a",
    "dpm++2m": "DPM++ 2M",
    "unipc": "UniPC",
    "pndm": "PLMS",  # as others call it without Runge-Kutta steps
    "lcm": "LCM",
}


def write_png(image: Image.Image, path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a picture with what it takes to draw it again.

    Args:
        record: its values may be anything that JSON has, paths and numpy scalars. `parameters` says
            which keys other programs get to see. `image_index` is the picture's number in its run:
            with the run's `seed` it gives the noise, however many pictures are drawn.

    Raises:
        InputError: the file cannot be written.
    """
    chunks = PngInfo()
    # A command line that is no UTF-8 has surrogates in it, which no chunk can hold.
    text = parameters(record).encode("utf-8", "replace").decode("utf-8")
    # The standard's tEXt is Latin-1, which readers take for UTF-8: plain ASCII is safe in it.
    (chunks.add_text if text.isascii() else chunks.add_itxt)("parameters", text)
    chunks.add_text(CHUNK, _to_json(record))
    try:
        image.save(path, format="PNG", pnginfo=chunks)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error


def write_json(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a record alone, for `read_record`.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        Path(path).write_text(_to_json(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error


def read_record(path: str | Path) -> dict[str, Any]:
    """Read the record of a picture, or of a run from its JSON file.

    Raises:
        InputError: the file is missing, is neither PNG nor JSON, or is a PNG without a record; or
            the record is damaged or of a newer version.
    """
    path = Path(path)
    try:
        start = path.read_bytes()[: len(SIGNATURE)]
        if start == SIGNATURE:  # whatever the name ends in
            return _parse(path, _record_of(path))
        if path.suffix.lower() == ".json":
            return _parse(path, path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    raise InputError(f"{path} is neither a PNG nor a .json file: only they hold records")


def parameters(record: Mapping[str, Any]) -> str:
    """Write the part of a record that other programs know, in the form that they read.

    The prompt comes first, then the negative prompt if there is one, then a line of `Name: value`
    pairs for what the record holds.

    Args:
        record: these of its keys are read: prompt, negative_prompt, steps, sampler, karras,
            guidance_scale, seed, image_index, width, height, fingerprints (its unet), base, moa.
    """
    lines = [record.get("prompt", "")]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    told = {name: value for name, value in _settings(record).items() if value is not None}
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in told.items()))
    return "\n".join(line for line in lines if line)


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Name the settings as other programs do; None means that the record does not hold one."""
    get = record.get
    sampler, scale = get("sampler"), get("guidance_scale")
    karras = " Karras" if get("karras") else ""
    sides = get("width"), get("height")
    fingerprint = (get("fingerprints") or {}).get("unet")
    model, moa = get("base") or get("model"), get("moa")  # earlier versions wrote model
    return {
        "Steps": get("steps"),
        "Sampler": sampler and SAMPLER_LABELS.get(sampler, sampler) + karras,
        "CFG scale": None if scale is None else f"{scale:g}",
        "Seed": get("seed"),
        "Image index": get("image_index"),
        "Size": None if None in sides else f"{sides[0]}x{sides[1]}",
        "Model hash": fingerprint and fingerprint[:10],
        "Model": model and Path(model).name,
        "MoA": moa and Path(moa).name,
        "Version": f"moa_jax {__version__}",
    }


def _quoted(value: str) -> str:
    """Quote a value with characters in it that would end it early."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',:"\n') else value


def _to_json(record: Mapping[str, Any], indent: int | None = None) -> str:
    """Write a record in ASCII, whatever its words are."""
    return json.dumps({**record, "format": FORMAT}, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    """Make a path a string and a numpy scalar a number."""
    if isinstance(value, Path):
        return str(value)
    if getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"a record cannot hold {value!r}")


def _record_of(path: Path) -> str:
    """Read the text chunk of a PNG that holds the record."""
    with Image.open(path) as image:
        chunks = image.text
    if CHUNK not in chunks:
        found = f"only the text chunks {', '.join(chunks)}" if chunks else "no text at all"
        raise InputError(
            f"{path} holds no record of moa_jax, {found}: a picture that another program wrote or "
            "saved again loses it; the .json beside it may still be there"
        )
    return chunks[CHUNK]


def _parse(path: Path, text: str) -> dict[str, Any]:
    """Parse a record; one without `format` was written before records had formats."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} holds a damaged record: {error}") from error
    written = record.get("format", FORMAT) if isinstance(record, dict) else None
    if type(written) is not int:
        raise InputError(f"{path} holds JSON, but no record of moa_jax: {text[:60]!r}")
    if written > FORMAT:
        raise InputError(
            f"{path} holds a record of format {written}, and moa_jax {__version__} reads up to "
            f"{FORMAT}: upgrade moa_jax"
        )
    return record
