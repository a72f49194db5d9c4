"""Trees of shapes that an earlier process traced, kept on disk beside the compiled programs.

A file's name is a digest of all that decides its shapes, of the sources that build networks, and
of the versions of jax and flax. After a change to any of them, another file is looked up.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict

Shapes = dict[str, Any]  # nested, with a jax.ShapeDtypeStruct at each end
SOURCES = Path(__file__).parents[1]
DIGESTED = ("moa_jax", "jax", "flax", "numpy", "ml_dtypes")  # whose sources or versions count


def remember(of: Any, trace: Callable[[], Shapes]) -> Shapes:
    """Read a tree of shapes from disk, or trace it and keep it for the next process.

    Where compiled programs are not kept, shapes are not kept: see `moa_jax.runtime.keep_programs`.

    Args:
        of: all that decides the shapes: modules, configurations and numbers.
        trace: computes the tree.
    """
    file = _file_name(of)
    if file is None:
        return trace()
    try:
        return _from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        shapes = trace()
    # Written under another name and then renamed, so that no process reads half a file.
    unfinished = file.with_suffix(f".{os.getpid()}")
    # A full or read-only disk costs the next start some seconds, and nothing else.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(_to_json(shapes), encoding="utf-8")
        unfinished.replace(file)
    return shapes


def describe(value: Any) -> Any:
    """Turn a value into something JSON can hold, the same in every process.

    A module or configuration is described by its fields, a function or class by its name.

    Raises:
        TypeError: the value cannot be described this way.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, partial):
        return [describe(value.func), describe(value.args), describe(value.keywords)]
    if isinstance(value, jax.ShapeDtypeStruct):
        return [list(value.shape), value.dtype.name]
    if inspect.ismethod(value):
        return [describe(value.__func__), describe(value.__self__)]
    if isinstance(value, type) or callable(value) and hasattr(value, "__qualname__"):
        if value.__module__.partition(".")[0] not in DIGESTED:
            raise TypeError(f"{value!r} may be other code tomorrow under the same name")
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        # A Flax module's parent and name say where it stands, and nothing of its shapes.
        names = [f.name for f in dataclasses.fields(value) if f.name not in ("parent", "name")]
        return [describe(type(value)), {name: describe(getattr(value, name)) for name in names}]
    if isinstance(value, Mapping):
        return {str(key): describe(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [describe(each) for each in value]
    if isinstance(value, np.dtype):
        return value.name
    raise TypeError(f"no description of {value!r}")


def _file_name(of: Any) -> Path | None:
    """Name the file that keeps some shapes; None where no shapes are kept."""
    folder = jax.config.jax_compilation_cache_dir
    if not folder or "://" in folder or not jax.config.jax_enable_compilation_cache:
        return None
    try:
        described = json.dumps([_versions(), describe(of)], sort_keys=True)
    except TypeError:  # something of the user's own: it is traced at every start
        return None
    return Path(folder) / f"shapes-{hashlib.sha256(described.encode()).hexdigest()[:32]}.json"


@cache
def _versions() -> list[str]:
    """Digest the sources that build networks, and name the versions of what they build on."""
    digest = hashlib.sha256()
    for file in sorted(SOURCES.rglob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return [digest.hexdigest(), jax.__version__, flax.__version__]


def _to_json(shapes: Shapes) -> str:
    flat = flatten_dict(shapes, keep_empty_nodes=True, sep="/")
    leaves = {path: leaf for path, leaf in flat.items() if leaf is not empty_node}
    named = {path: [leaf.shape, leaf.dtype.name] for path, leaf in leaves.items()}
    return json.dumps(dict.fromkeys(flat) | named)  # null is a dictionary without entries


def _from_json(text: str) -> Shapes:
    flat = {
        path: empty_node if leaf is None else _shape(*leaf)
        for path, leaf in json.loads(text).items()
    }
    return unflatten_dict(flat, sep="/")


def _shape(shape: list[int], dtype: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), jax.numpy.dtype(dtype))
