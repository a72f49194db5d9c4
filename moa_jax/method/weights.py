"""What MoA adds to a Stable Diffusion checkpoint: which weights learn, and the file they travel in.

`learns` is the one answer to "what learns?": gradient, optimizer, training checkpoints and the
exported file (`moa.safetensors` beside `moa.json`) all follow it. The frozen weights are never
written; they are named and fingerprinted, and a file is refused on another base. Knows no training.
"""

import dataclasses
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.config import Config, MethodConfig, from_dict
from moa_jax.errors import InputError

WEIGHTS_NAME = "moa.safetensors"
CARD_NAME = "moa.json"
FORMAT_VERSION = 1
_VISION_LAYER = re.compile(r"^image_encoder\.(?:.*\.)?layers\.(\d+)\.")
_VISION_HEAD = ("post_layernorm", "visual_projection")


def learns(path: str, method: MethodConfig, vision_layers: int) -> bool:
    """Say whether the parameter at `path` learns: the one answer in this project.

    Source: MoA (arXiv 2404.11565): only what MoA adds is trained; the last layers of the
    image encoder besides, as FastComposer does.

    Args:
        path: the parameter's place in the tree joined by ".", as `leaf_paths` gives it.
        vision_layers: transformer layers of the image encoder, of which the last
            `method.image_encoder_layers` learn together with its head.
    """
    parts = path.split(".")
    if parts[0] == "unet":
        return "personalized" in parts or "router" in parts
    if parts[0] == "image_encoder" and method.image_encoder_layers > 0:
        if layer := _VISION_LAYER.match(path):
            return int(layer[1]) >= vision_layers - method.image_encoder_layers
        return any(name in parts for name in _VISION_HEAD)
    return parts[0] == "prompt"


def learning_mask(params: Mapping[str, Any], method: MethodConfig) -> Any:
    """Apply `learns` to every leaf: a tree of bool in the shape of `params`.

    Raises:
        InputError: more image encoder layers should learn than there are.
    """
    layers = [int(found[1]) for path in leaf_paths(params) if (found := _VISION_LAYER.match(path))]
    vision_layers = max(layers, default=-1) + 1
    if method.image_encoder_layers > vision_layers:
        raise InputError(
            f"method.image_encoder_layers={method.image_encoder_layers}, but the image encoder has "
            f"{vision_layers} layers: choose 0 to {vision_layers}"
        )
    return _map_paths(lambda path, _: learns(path, method, vision_layers), params)


def leaf_paths(tree: Any) -> dict[str, Any]:
    """List a tree's leaves under their paths, joined by "." as the names on disk are."""
    return {_join(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which frozen networks some weights belong to: names for people, fingerprints to compare."""

    base: str
    image_encoder: str
    fingerprints: dict[str, str]  # of unet, vae, text_encoder, image_encoder

    @classmethod
    def of(cls, sd: StableDiffusion, image_encoder: str | None = None) -> "Identity":
        """Identify a loaded checkpoint.

        Args:
            image_encoder: where its image encoder came from; None: the base folder itself.
        """
        parts = ("unet", "vae", "text_encoder", "image_encoder")
        components = {part: getattr(sd, part) for part in parts}
        return cls(
            base=sd.name,
            image_encoder=image_encoder or sd.name,
            fingerprints={part: c.fingerprint for part, c in components.items() if c is not None},
        )

    def require(self, loaded: "Identity", what: str) -> None:
        """Refuse networks other than the ones `what` was made with.

        Raises:
            InputError: naming the component, where both came from and the remedy.
        """
        for part, fingerprint in self.fingerprints.items():
            if loaded.fingerprints.get(part) != fingerprint:
                mine, theirs = (
                    i.image_encoder if part == "image_encoder" else i.base for i in (self, loaded)
                )
                raise InputError(
                    f"{what} was trained on the {part} of {mine!r} (fingerprint "
                    f"{fingerprint[:12]}), but {theirs!r} has another one (fingerprint "
                    f"{loaded.fingerprints.get(part, 'none')[:12]}): use the base model it was "
                    f"trained on, or train again on this one"
                )


@dataclasses.dataclass(frozen=True)
class MoaCard:
    """What `moa.json` says about the weights beside it."""

    config: Config
    identity: Identity
    step: int


def save_moa(folder: str | Path, trained: Any, card: MoaCard) -> None:
    """Write `moa.safetensors` and `moa.json`, each whole or not at all.

    Args:
        trained: the leaves that learn; leaves that do not are absent or `optax.MaskedNode`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {p: np.ascontiguousarray(jax.device_get(a)) for p, a in leaf_paths(trained).items()}
    text = json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(card)}, indent=2)
    unfinished = folder / (WEIGHTS_NAME + ".unfinished")
    save_file(arrays, unfinished, metadata={"format": "moa_jax", "step": str(card.step)})
    unfinished.chmod(0o644)  # safetensors makes files that only their owner can read
    os.replace(unfinished, folder / WEIGHTS_NAME)
    unfinished = folder / (CARD_NAME + ".unfinished")
    unfinished.write_text(text + "\n")
    os.replace(unfinished, folder / CARD_NAME)


def read_moa_card(folder: str | Path) -> MoaCard:
    """Read `moa.json`: with which configuration to build the model, and for which base.

    Raises:
        InputError: no such folder or file, not JSON, a format this version does not know, or a
            value that the configuration cannot have.
    """
    path = Path(folder) / CARD_NAME
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
        return MoaCard(config, Identity(**values["identity"]), int(values["step"]))
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is damaged ({error!r}): export it again") from error


def _read_config(path: Path, values: Mapping[str, Any]) -> Config:
    try:
        return from_dict(Config, values)
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from error


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
        allow_other_base: warn of another U-Net or text encoder instead of refusing it.

    Returns:
        `params` with every leaf that learns replaced, in its dtype and on its devices.

    Raises:
        InputError: another base; a missing, truncated or damaged file; or tensors that do not fit,
            all of them listed.
    """
    path = Path(folder) / WEIGHTS_NAME
    card = read_moa_card(folder)
    _require(card.identity, identity, str(path), allow_other_base)
    mask = leaf_paths(learning_mask(params, card.config.method))
    expected = {key: leaf for key, leaf in leaf_paths(params).items() if mask[key]}
    arrays = _read_arrays(path)
    _check_fit(path, arrays, expected)

    def replace(key: str, leaf: Any) -> Any:
        if key not in arrays:
            return leaf
        return jax.device_put(arrays[key].astype(leaf.dtype), getattr(leaf, "sharding", None))

    return _map_paths(replace, params)


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


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{str(path)!r} is missing: give the folder that train.py wrote it to")
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{str(path)!r} is truncated or damaged ({error}): copy or export it again"
        ) from error


def _check_fit(path: Path, arrays: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    faults = [f"missing {key}" for key in expected if key not in arrays]
    faults += [f"unexpected {key}" for key in arrays if key not in expected]
    faults += [
        f"{key} has shape {arrays[key].shape} instead of {leaf.shape}"
        for key, leaf in expected.items()
        if key in arrays and arrays[key].shape != leaf.shape
    ]
    if faults:
        raise InputError(
            f"{str(path)!r} does not fit the model that {CARD_NAME} describes "
            f"({len(faults)} faults): " + "; ".join(faults)
        )


def _map_paths(function: Callable[[str, Any], Any], tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_join(path), leaf), tree)


def _join(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
