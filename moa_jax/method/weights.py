"""The file of trained MoA weights, and its card.

The exported file (`moa.safetensors` beside `moa.json`) holds all that differs from the base: what
learns, and what an earlier run trained in the image encoder and this run carried on. The base's own
weights are never written. The card has their names and fingerprints, and the file is refused on
another base. Nothing here depends on training.
"""

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from moa_jax.backbone.folder import packaged
from moa_jax.config import Config, from_dict
from moa_jax.errors import InputError
from moa_jax.extension import is_name, require_imported
from moa_jax.method.identity import Identity
from moa_jax.method.trained import is_added, leaf_paths, learning_mask, map_paths

WEIGHTS_NAME = "moa.safetensors"
CARD_NAME = "moa.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class MoaCard:
    """What `moa.json` says about the weights beside it.

    Attributes:
        carried: paths of the weights that are in the file but did not learn: those of an earlier
            run's image encoder, and those that a variant adds and keeps as they are.
    """

    config: Config
    identity: Identity
    step: int
    carried: tuple[str, ...] = ()


def save_moa(
    folder: str | Path,
    trained: Any,
    card: MoaCard,
    carried: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write `moa.safetensors` and `moa.json`, each intact or not at all.

    The weights hold a digest of the card. After a crash between the two, the files do not belong
    together, and reading them finds this out.

    Args:
        trained: the leaves that learn; leaves that do not are absent or `optax.MaskedNode`.
        carried: weights that neither learn nor are the base's: from `read_carried` if the run began
            with earlier weights, and from `fixed_additions`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {p: np.asarray(jax.device_get(a), order="C") for p, a in leaf_paths(trained).items()}
    card = dataclasses.replace(card, carried=tuple(sorted(carried or ())))
    values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(card)}
    if not carried:
        del values["carried"]  # earlier versions do not know it
    metadata = {"format": "moa_jax", "step": str(card.step), "card": _digest(values)}
    # A file is renamed when it is finished: a rename happens entirely or not at all.
    unfinished = folder / (WEIGHTS_NAME + ".unfinished")
    save_file(arrays | dict(carried or {}), unfinished, metadata=metadata)
    unfinished.chmod(0o644)  # safetensors makes files that only their owner can read
    os.replace(unfinished, folder / WEIGHTS_NAME)
    unfinished = folder / (CARD_NAME + ".unfinished")
    unfinished.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(unfinished, folder / CARD_NAME)


def read_moa_card(folder: str | Path) -> MoaCard:
    """Read `moa.json`: the configuration to build the model with, and the base that it needs.

    Raises:
        InputError: the folder or file is missing, is not JSON, or has a format that this version
            does not know; it holds a value that the configuration cannot have, or names a variant
            whose module this program has not imported; or it is not the card of the weights beside
            it.
    """
    path = packaged(folder) / CARD_NAME
    if not path.is_file():
        raise InputError(f"{str(path)!r} is missing: give the folder that train.py wrote it to")
    try:
        values = json.loads(path.read_text())
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(
                f"{str(path)!r} has format_version {version!r}; this moa_jax reads "
                f"{FORMAT_VERSION}: install the version that wrote it"
            )
        config = _read_config(path, values["config"])
        identity, carried = Identity(**values["identity"]), tuple(values.get("carried", ()))
        card = MoaCard(config, identity, int(values["step"]), carried)
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is damaged ({error!r}): export it again") from error
    _require_pair(path, values)
    return card


def _require_pair(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse a card that was not written with the weights beside it."""
    weights = path.with_name(WEIGHTS_NAME)
    if not weights.is_file():
        return
    with _opened(weights) as file:
        metadata = file.metadata() or {}
    if metadata.get("card", _digest(values)) != _digest(values):  # earlier versions wrote none
        raise InputError(
            f"{str(path)!r} (step {values['step']}) is not the card that {str(weights)!r} (step "
            f"{metadata.get('step')}) was written with: only one of the two was replaced, or the "
            "card was edited; start the training again, which writes both, or copy both again"
        )


def _digest(values: Mapping[str, Any]) -> str:
    """Compute a digest of a card that does not depend on the layout of its file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _read_config(path: Path, values: Mapping[str, Any]) -> Config:
    try:
        config = from_dict(Config, values)
        if is_name(config.method.mixture):
            require_imported(config.method.mixture, "method.mixture")
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from error
    return config


def load_moa(
    folder: str | Path,
    params: Mapping[str, Any],
    identity: Identity,
    allow_other_base: bool = False,
) -> Any:
    """Put the trained weights of `folder` into `params`.

    Args:
        params: of the model built with `read_moa_card(folder).config`; gives shapes and dtypes.
        identity: of the networks that `params` was built on.
        allow_other_base: warn of other networks instead of refusing them.

    Returns:
        `params`, in which the weights of the file replace the old leaves; dtypes and devices stay.

    Raises:
        InputError: the base is another one; the file is missing, truncated or damaged; or tensors
            do not fit, and the message lists all of them.
    """
    path = packaged(folder) / WEIGHTS_NAME
    card = read_moa_card(folder)
    _require(card.identity, identity, str(path), allow_other_base)
    learning = leaf_paths(learning_mask(params, card.config.method))
    arrays = _read_arrays(path)
    _check_fit(path, arrays, leaf_paths(params), {key for key in learning if learning[key]}, card)

    def replace(key: str, leaf: Any) -> Any:
        if key not in arrays:
            return leaf
        # A leaf that is only a shape has no sharding: None is the default device.
        return jax.device_put(arrays[key].astype(leaf.dtype), getattr(leaf, "sharding", None))

    return map_paths(replace, params)


def read_carried(folder: str | Path, mask: Any) -> dict[str, np.ndarray]:
    """Read the weights of `folder` that a run continues from but does not train.

    Args:
        mask: what that run trains, from `learning_mask`.

    Returns:
        Weights of the image encoder by their path, exactly as the file has them. The run's own file
        must hold them too, because they are not the base's.
    """
    learning = leaf_paths(mask)
    return {
        key: array
        for key, array in read_weights(folder).items()
        if key.startswith("image_encoder.") and not learning[key]
    }


def _require(trained_on: Identity, loaded: Identity, what: str, allow_other_base: bool) -> None:
    try:
        trained_on.require(loaded, what)
    except InputError as error:
        if not allow_other_base:
            raise InputError(
                f"{error}; a checkpoint that was fine-tuned from it can be tried with "
                "allow_other_base=True (--allow-other-base)"
            ) from None
        warnings.warn(f"drawing all the same: {error}", stacklevel=4)


def read_shapes(folder: str | Path) -> dict[str, list[int]]:
    """Read the shape of each tensor of `folder`; the tensors themselves are not read.

    Raises:
        InputError: the file is missing, truncated or damaged.
    """
    with _opened(Path(folder) / WEIGHTS_NAME) as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def read_weights(folder: str | Path) -> dict[str, np.ndarray]:
    """Read all weights of `folder` by their path, exactly as the file has them.

    Raises:
        InputError: the file is missing, truncated or damaged.
    """
    return _read_arrays(packaged(folder) / WEIGHTS_NAME)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise InputError(f"{str(path)!r} is missing: give the folder that train.py wrote it to")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{str(path)!r} is truncated or damaged ({error}): copy or export it again"
        ) from error


def _check_fit(
    path: Path,
    arrays: Mapping[str, Any],
    leaves: Mapping[str, Any],
    learning: set[str],
    card: MoaCard,
) -> None:
    """Refuse weights that are not those of the card.

    They may hold more of the image encoder than the card says: earlier versions trained its head.
    """
    carried = set(card.carried)
    expected = [key for key in leaves if key in learning | carried or is_added(key)]
    allowed = {key for key in leaves if key.startswith("image_encoder.")}.union(expected)
    faults = [f"missing {key}" for key in expected if key not in arrays]
    faults += [f"unexpected {key}" for key in arrays if key not in allowed]
    faults += [
        f"{key} has shape {arrays[key].shape} instead of {leaf.shape}"
        for key, leaf in leaves.items()
        if key in arrays and arrays[key].shape != leaf.shape
    ]
    if faults:
        raise InputError(
            f"{str(path)!r} does not fit the model that {CARD_NAME} describes "
            f"({len(faults)} faults): " + "; ".join(faults)
        )
