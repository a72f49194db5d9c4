"""What the network did while it drew, as one `.npz` file: routing, attention and timesteps.

`moa_jax.figures` draws figures of it. This module imports neither a model nor jax.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from moa_jax.errors import InputError


class Inside(NamedTuple):
    """What the network did at every step, for all pictures of a run.

    Attributes:
        routing: the personalized expert's weight in each mixture layer, by the layer's path, in
            [0, 1].
        attention: how much the personalized expert attends to each subject's word, by the path of
            the cross-attention layer, mean over heads, in [0, 1].
        timesteps: the noise schedule's timestep of each step, noisiest first.
    """

    routing: Mapping[str, Float[np.ndarray, "steps B _ _"]]
    attention: Mapping[str, Float[np.ndarray, "steps B _ _ K"]]
    timesteps: Shaped[np.ndarray, " steps"]


def save_arrays(
    path: str | Path,
    routing: Mapping[str, Float[np.ndarray, "steps B _ _"]],
    attention: Mapping[str, Float[np.ndarray, "steps B _ _ K"]],
    timesteps: Shaped[np.ndarray, " steps"],
) -> None:
    """Write an `.npz` file that `load_arrays` or plain `numpy.load` can read.

    Its keys are `timesteps` and, in float16, `routing/<layer>` and `attention/<layer>`. `Inside`
    says what each means.

    Raises:
        InputError: the path does not end in `.npz`, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path}: arrays are written as .npz: let the name end in it")
    # Half the size of float32; a weight in [0, 1] is rounded by at most 0.00025.
    arrays = {f"routing/{layer}": array.astype(np.float16) for layer, array in routing.items()}
    arrays |= {f"attention/{layer}": array.astype(np.float16) for layer, array in attention.items()}
    try:
        np.savez_compressed(path, timesteps=timesteps, **arrays)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error


def load_arrays(path: str | Path) -> Inside:
    """Read what `save_arrays` wrote.

    Raises:
        InputError: the file is missing or damaged, or `save_arrays` did not write it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:  # a pickle could run code
            arrays = dict(file)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged or no .npz file: {error}") from error
    if "timesteps" not in arrays:
        found = ", ".join(sorted(arrays)[:4]) or "nothing"
        raise InputError(f"{path} holds no timesteps but {found}: save_arrays did not write it")
    parts: dict[str, dict[str, np.ndarray]] = {"routing": {}, "attention": {}}
    for key, array in arrays.items():
        part, _, layer = key.partition("/")
        if part in parts:
            parts[part][layer] = array
    return Inside(parts["routing"], parts["attention"], arrays["timesteps"])
