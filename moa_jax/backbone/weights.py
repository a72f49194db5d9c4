"""Weights on disk: one network's safetensors files, read into its parameter tree and written back.

A parameter's path in the Flax tree, joined by ".", is its key in diffusers or transformers, except
for the last part. The order of the axes differs too. `to_checkpoint` and `from_checkpoint` bridge
both differences, and there are no others. Loading is strict and streams: a few tensors at a time
go from the file to the device. Nothing here depends on a network or on what the files are for.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from moa_jax.backbone.folder import (
    DIFFUSERS_NAME,
    TRANSFORMERS_NAME,
    open_tensors,
    weight_files,
    write_config,
)
from moa_jax.backbone.quantization import is_quantized
from moa_jax.errors import InputError

Place = Callable[[str, np.ndarray], Any]

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_KERNEL_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}  # (in, out) to (out, in); HWIO to OIHW
# Older VAE checkpoints name the parts of their attention layers so.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
_BUFFER = re.compile(r"(^|\.)position_ids$")  # 0, 1, 2, …: older transformers saved them
READERS = min(4, os.cpu_count() or 1)  # threads: each holds a tensor and its cast copy
_FINGERPRINT_VALUES = 256  # of each tensor: enough to tell models apart, cheap to read


def to_checkpoint(path: Sequence[str], array: Any) -> tuple[str, Any]:
    """Turn a Flax parameter into its key and its array in a checkpoint.

    Args:
        path: names from the root of one network's tree to the leaf.
    """
    *scopes, leaf = path
    key = ".".join([*scopes, _LEAVES.get(leaf, leaf)])
    return key, array.transpose(_axes(leaf, array.ndim))


def from_checkpoint(path: Sequence[str], array: Any) -> Any:
    """Undo what `to_checkpoint` does to the array of the parameter at `path`."""
    return array.transpose(np.argsort(_axes(path[-1], array.ndim)))


def load_params(
    folder: Path,
    shapes: Mapping[str, Any],
    dtype: Any = jnp.float32,
    variant: str | None = None,
    place: Place | None = None,
    ignore: Iterable[str] = (),
) -> tuple[dict[str, Any], str]:
    """Read one network's parameters, tensor by tensor, and its fingerprint.

    Args:
        folder: holds one safetensors file, or several and their index.
        shapes: the tree to fill; its leaves need only a `shape`.
        dtype: of the arrays; not used when `place` is given.
        variant: "fp16" reads `*.fp16.safetensors`.
        place: puts a leaf where it belongs. It is called as `place("conv_in.kernel", array)`, with
            an array of the file's dtype, by several threads. None means the default device.
        ignore: prefixes of keys that belong to another network.

    Returns:
        The tree, and the fingerprint: a hash of the keys, the shapes and the first values of each
        tensor at half precision. It is the same for the float32 and float16 files of one model.

    Raises:
        InputError: there is no safetensors file, it is damaged, or its keys or shapes are not the
            expected ones.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(open_tensors(file)) for file in weight_files(folder, variant)]
        return read_params(folder, files, shapes, dtype, place, ignore)


def read_params(
    source: Path,
    files: Sequence[Any],
    shapes: Mapping[str, Any],
    dtype: Any = jnp.float32,
    place: Place | None = None,
    ignore: Iterable[str] = (),
    strict: bool = True,
) -> tuple[dict[str, Any], str]:
    """Read one network's parameters from open files; see `load_params`, which opens a folder's.

    Args:
        source: the folder or file, for messages.
        files: have the methods of safetensors' `safe_open`.
        strict: whether a tensor that the network has not is an error, as in a folder. If not, as
            in a single file, a warning names it.

    Raises:
        InputError: keys or shapes are not the expected ones.
    """
    place = place or (lambda path, array: jax.device_put(array.astype(dtype)))
    paths, expected = _expected(shapes)
    digest, leaves = hashlib.sha256(), {}
    sources, faults, unused = _match(files, expected, tuple(ignore))
    if strict:
        faults += [f"unexpected: {each}" for each in unused]
    if faults:
        lines, config = "\n  ".join(sorted(faults)), "config.json" if strict else "each other"
        raise InputError(f"the weights in {str(source)!r} do not fit {config}:\n  {lines}")
    if unused:
        warnings.warn(f"{str(source)!r} has more than is used: {_some(unused)}", stacklevel=4)
    keys = sorted(sources)

    def read(key: str) -> tuple[bytes, Any]:
        file, name = sources[key]
        path, tensor = paths[key], file.get_tensor(name)
        placed = place(".".join(path), from_checkpoint(path, tensor))
        # Wait, or the host would keep this tensor while it reads the next ones.
        return _excerpt(key, tensor), jax.block_until_ready(placed)

    # Casting and transposing take several times as long as reading, and run on one core each.
    with ThreadPoolExecutor(READERS) as pool:
        for key, (excerpt, leaf) in zip(keys, pool.map(read, keys), strict=True):
            digest.update(excerpt)
            leaves[paths[key]] = leaf
    return flax.traverse_util.unflatten_dict(leaves), digest.hexdigest()


def save_params(folder: Path, params: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write one network as diffusers or transformers does: `config.json` and one safetensors file.

    Args:
        folder: made if need be.
        params: the tree; each array keeps its dtype. The host holds a copy while it is written.
        config: written as `config.json`. If it has a `_class_name`, files are named as diffusers
            names them, else as transformers does.

    Raises:
        InputError: weights are in int8, which no other program could read back.
    """
    flat = flax.traverse_util.flatten_dict(params)
    if any(map(is_quantized, flat.values())):
        raise InputError(
            f"{str(folder)!r} is not written: its weights are in int8; load them without "
            "quantization, and save those"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for path, leaf in flat.items():
        key, tensor = to_checkpoint(path, np.asarray(leaf))
        tensors[key] = np.ascontiguousarray(tensor)
    # transformers casts to the dtype that its configuration names.
    dtypes = {key: str(tensor.dtype) for key in ("dtype", "torch_dtype") if key in config}
    write_config(folder, {**config, **dtypes})
    stem = DIFFUSERS_NAME if "_class_name" in config else TRANSFORMERS_NAME
    file = folder / f"{stem}.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors makes files that only their owner can read


def _axes(leaf: str, ndim: int) -> tuple[int, ...]:
    """Order the axes of a Flax leaf as PyTorch does."""
    return _KERNEL_AXES[ndim] if leaf == "kernel" else tuple(range(ndim))


def _expected(shapes: Mapping[str, Any]) -> tuple[dict[str, tuple], dict[str, tuple[int, ...]]]:
    """List two things for every key: its path in the tree and its shape in the file."""
    paths, expected = {}, {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes).items():
        # A stand-in of one byte, whatever its shape.
        key, stand_in = to_checkpoint(path, np.broadcast_to(np.int8(0), leaf.shape))
        paths[key], expected[key] = path, stand_in.shape
    return paths, expected


def _match(
    files: Sequence[Any], expected: Mapping[str, tuple], ignore: tuple[str, ...]
) -> tuple[dict[str, tuple[Any, str]], list[str], list[str]]:
    """Find every expected key's file and name in that file.

    Returns:
        What was found; what is missing or of another shape; and what was not expected.
    """
    sources, faults, unused = {}, [], []
    for file in files:
        names = file.keys()
        for name in names:
            key, shape = _present_name(name, expected), tuple(file.get_slice(name).get_shape())
            if key in expected and key not in sources:
                sources[key] = (file, name)
                if shape != expected[key]:
                    faults.append(f"misshaped: {name} {shape}, expected {expected[key]}")
            elif not (_BUFFER.search(name) or name.startswith(ignore)):
                unused.append(f"{name} {shape}")
    faults += [f"missing: {key} {expected[key]}" for key in expected if key not in sources]
    return sources, faults, unused


def _some(lines: Sequence[str], most: int = 5) -> str:
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


def _present_name(name: str, expected: Mapping[str, tuple]) -> str:
    """Give the present name of a key that an older or newer version of the libraries wrote."""
    if name in expected:
        return name
    if (prefixed := f"text_model.{name}") in expected:
        return prefixed
    return _OLD_ATTENTION.sub(lambda match: f"{match[1]}.{_OLD_NAMES[match[2]]}.", name)


def _excerpt(key: str, tensor: np.ndarray) -> bytes:
    """Give what the fingerprint holds of a tensor."""
    with np.errstate(over="ignore"):  # beyond half precision's range both files say inf
        values = tensor.reshape(-1)[:_FINGERPRINT_VALUES].astype(np.float16)
    return f"{key} {tensor.shape}".encode() + values.tobytes()
