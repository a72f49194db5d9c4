"""Checkpoint folders: where they are, and which configuration and weight files they hold.

File names are those of diffusers and transformers. Nothing here reads weights or builds a network,
or imports jax.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from moa_jax.backbone.hub import download
from moa_jax.errors import InputError

DIFFUSERS_NAME, TRANSFORMERS_NAME = "diffusion_pytorch_model", "model"  # before the suffix

# Of safetensors: bytes that hold the header's size, and the dtypes of weights.
HEADER_SIZE = 8
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}

# Suffixes of pickled weights. They are not read, because a pickle can run any code.
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def packaged(path: str | Path) -> Path:
    """Find what comes with the package from any folder: `moa_jax/toyworld/weights/base`.

    A path that begins with `moa_jax/` and is not here is taken from where the package is installed.
    """
    path = Path(path).expanduser()
    installed = Path(__file__).parents[2] / path
    if path.parts[:1] == ("moa_jax",) and not path.exists() and installed.exists():
        return installed
    return path


def resolve(
    name_or_path: str | Path,
    components: Sequence[str] = ("",),
    variant: str | None = None,
    weights: bool = True,
) -> Path:
    """Find a checkpoint folder here, or download it from the Hugging Face hub.

    Only JSON, safetensors and tokenizer text files of the components are downloaded.

    Args:
        name_or_path: a folder, or a hub id such as "owner/name".
        components: subfolders that will be read; "" is the folder itself.
        variant: "fp16" asks for `*.fp16.safetensors`; None for `*.safetensors`.
        weights: whether the safetensors are wanted too.

    Raises:
        InputError: the name is no folder, and it cannot be downloaded.
    """
    name, path = str(name_or_path), packaged(name_or_path)
    if not name:  # would be the working directory
        raise InputError("no model is named: give a checkpoint folder or a Hugging Face hub id")
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(
            f"{str(path)!r} is a file; give a diffusers folder (diffusers makes one of a single "
            "file: StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER))"
        )
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise InputError(f"{name!r}: there is no such folder")
    return _download(name, components, variant, weights)


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Read a JSON object from a checkpoint folder.

    Raises:
        InputError: the folder or the file is missing, or the file is not a JSON object.
    """
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} is missing: the checkpoint is not complete")
    file = folder / name
    if not file.is_file():
        raise InputError(f"{str(folder)!r} has no {name}: the checkpoint is not complete")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{str(file)!r} is not readable as JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{str(file)!r} is not a JSON object of keys and values")
    return config


def write_config(folder: Path, config: Mapping[str, Any], name: str = "config.json") -> None:
    """Write a JSON object into a checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(config), indent=2, sort_keys=True) + "\n"
    (folder / name).write_text(text, encoding="utf-8")


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Find the one safetensors file of a network, or the several that its index lists.

    Raises:
        InputError: there is none, there is none for this variant, or the index lists a file that
            is missing.
    """
    infix = _infix(variant)
    for stem in (DIFFUSERS_NAME, TRANSFORMERS_NAME):
        if (single := folder / f"{stem}{infix}.safetensors").is_file():
            return [single]
        for index in (
            f"{stem}.safetensors.index{infix}.json",
            f"{stem}{infix}.safetensors.index.json",
        ):
            if (folder / index).is_file():
                return _shards(folder, index)
    raise InputError(_no_weights(folder, variant))


class TensorFile:
    """An open safetensors file, with the methods of safetensors' `safe_open`.

    safetensors maps a file into memory. Pages that were read then count as this process's own until
    it closes the file, so that a checkpoint takes its size twice. Here a tensor is read.
    """

    def __init__(self, path: Path) -> None:
        """Open a file, which safetensors checks: its header, its size, where its tensors lie."""
        self._path, self._mapped = path, safe_open(path, framework="numpy")
        with path.open("rb") as file:
            size = int.from_bytes(file.read(HEADER_SIZE), "little")
            self._header, self._start = json.loads(file.read(size)), HEADER_SIZE + size

    def __enter__(self) -> "TensorFile":
        """Give itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._mapped.__exit__(*error)

    def keys(self) -> list[str]:
        """List the names of the tensors."""
        return list(self._mapped.keys())

    def metadata(self) -> dict[str, str] | None:
        """Give what the file says about itself."""
        return self._mapped.metadata()

    def get_slice(self, name: str) -> Any:
        """Give what knows a tensor's shape, and reads parts of it."""
        return self._mapped.get_slice(name)

    def get_tensor(self, name: str) -> np.ndarray:
        """Read a tensor; several threads may do so."""
        about = self._header[name]
        if about["dtype"] not in FLOATS:  # no weight
            return self._mapped.get_tensor(name)
        dtype, (begin, end) = np.dtype(FLOATS[about["dtype"]]), about["data_offsets"]
        # In numpy's own type of that size: it cannot read bfloat16 from files.
        raw = np.dtype(f"u{dtype.itemsize}")
        place = {"count": (end - begin) // dtype.itemsize, "offset": self._start + begin}
        return np.fromfile(self._path, raw, **place).view(dtype).reshape(about["shape"])


def open_tensors(file: Path) -> TensorFile:
    """Open a safetensors file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return TensorFile(file)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{str(file)!r} is truncated or damaged, download or copy it again: {error}"
        ) from error


def _download(name: str, components: Sequence[str], variant: str | None, weights: bool) -> Path:
    patterns = ["model_index.json"]
    for component in components:
        prefix = f"{component}/" if component else ""
        patterns += [f"{prefix}*.json", f"{prefix}*.txt"]
        for stem in (DIFFUSERS_NAME, TRANSFORMERS_NAME) if weights else ():
            stem = f"{prefix}{stem}{_infix(variant)}"
            patterns += [f"{stem}.safetensors", f"{stem}-*.safetensors"]
    return download(name, patterns)


def _infix(variant: str | None) -> str:
    return f".{variant}" if variant else ""


def _shards(folder: Path, index: str) -> list[Path]:
    weight_map = read_config(folder, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{str(folder / index)!r} has no weight_map of keys to files")
    names = sorted(set(weight_map.values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"{str(folder)!r} lacks files that {index} lists: {', '.join(missing)}")
    return [folder / name for name in names]


def _no_weights(folder: Path, variant: str | None) -> str:
    names = sorted(file.name for file in folder.iterdir())
    if others := [name for name in names if name.endswith(".safetensors")]:
        wanted = f"*.{variant}.safetensors" if variant else "file without a variant in its name"
        return f"{str(folder)!r} has no {wanted}, only {', '.join(others)}: set `variant` to match"
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return (
            f"{str(folder)!r} has only pickled weights ({', '.join(pickles)}). A pickle can run "
            "any code when it is read, so only safetensors is read: load the model once with "
            "diffusers and write it with save_pretrained(FOLDER, safe_serialization=True)"
        )
    wanted = f"*{_infix(variant)}.safetensors"
    return f"{str(folder)!r} has no {wanted}: the checkpoint is not complete, or needs a `variant`"
