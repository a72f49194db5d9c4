"""A single file that holds a whole Stable Diffusion 1.x or 2.x, as Civitai's files do.

It has the tensors of the U-Net, the VAE and the text encoder under the names of CompVis' code, and
neither configurations nor a tokenizer. This module finds the file, tells its kind from names and
shapes, refuses what is something else, and opens it as if its tensors had diffusers' names. Only
safetensors is read, tensor by tensor, so that no more is in memory than with a folder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from moa_jax.backbone.folder import PICKLES, open_tensors
from moa_jax.backbone.hub import download
from moa_jax.backbone.single_file_configs import context_width, make_configs, make_scheduler_config
from moa_jax.backbone.single_file_names import CLIP, OPEN_CLIP, UNET, VAE, Piece, Shape, find_pieces
from moa_jax.backbone.supported import STABLE_DIFFUSION_OF_WIDTH
from moa_jax.errors import InputError

SUFFIX = ".safetensors"
SUPPORTED = ("1.x", "2.x")
_ON_THE_HUB = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)/((?:[\w-][\w.-]*/)*[\w-][\w.-]*\.\w+)")
_ONLY = "only Stable Diffusion 1.x and 2.x are supported"
_MODELSPEC = {"v": "v_prediction", "epsilon": "epsilon"}
# What a file is that holds a tensor of such a name, and what to do with it.
_OTHERS = (
    (r"conditioner\.embedders\.", "a Stable Diffusion XL checkpoint", _ONLY),
    (r"(.*\.)?joint_blocks\.", "a Stable Diffusion 3 checkpoint", _ONLY),
    (r"(.*\.)?double_blocks\.", "a Flux checkpoint", _ONLY),
    (
        r"(.*\.)?(input_hint_block|controlnet_cond_embedding)\.",
        "a ControlNet",
        "give its diffusers folder to --controlnet, and a checkpoint as the base",
    ),
    (
        r".*(lora_|lora\.|hada_w|lokr_w)",
        "a LoRA",
        "give it to --lora (Pipeline.add_lora), and a checkpoint as the base",
    ),
    (r".*motion_modules\.", "AnimateDiff's motion module", _ONLY),
    (r"emb_params$|string_to_param", "a textual inversion", "these are not supported"),
    (
        r"((encoder|decoder)\.)?(down_blocks|mid_block|up_blocks)\.|text_model\.",
        "one network of a diffusers folder",
        "give the whole folder",
    ),
    (r"(encoder|decoder)\.(down|mid|up)\.", "a VAE alone", "give a whole checkpoint"),
)
# What a U-Net with so many input channels sees besides the four of noisy latents.
_CONDITIONED = {
    5: "Stable Diffusion 2's depth model",
    7: "an upscaler",
    8: "InstructPix2Pix",
    9: "an inpainting model",
}
_NETWORKS = {  # by what their names begin with, and diffusers' argument for one from elsewhere
    "VAE": ((VAE,), "vae"),
    "text encoder": ((CLIP, OPEN_CLIP), "text_encoder"),
}


@dataclass(frozen=True)
class SingleFile:
    """What a file says of itself.

    Attributes:
        kind: "1.x" or "2.x".
        prediction_type: "epsilon" or "v_prediction".
        decided: whether the file itself, or its kind, tells `prediction_type`.
        configs: `config.json` of "unet", "vae" and "text_encoder", and `scheduler_config.json` as
            "scheduler".
        pieces: where each network's tensors are, by diffusers' names.
    """

    path: Path
    kind: str
    prediction_type: str
    decided: bool
    configs: dict[str, dict[str, Any]]
    pieces: dict[str, dict[str, Piece]]

    def open(self, network: str) -> "Renamed":
        """Open the file for reading one network."""
        return Renamed(self.path, self.pieces[network])


class Renamed:
    """A network's tensors by diffusers' names, with the methods of safetensors' `safe_open`."""

    def __init__(self, path: Path, pieces: Mapping[str, Piece]) -> None:
        """Open the file."""
        self._file, self._pieces = open_tensors(path), pieces

    def __enter__(self) -> "Renamed":
        """Give itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._file.__exit__(*error)

    def keys(self) -> list[str]:
        """List the names."""
        return list(self._pieces)

    def get_slice(self, name: str) -> Piece:
        """Give what knows a tensor's shape."""
        return self._pieces[name]

    def get_tensor(self, name: str) -> np.ndarray:
        """Read a tensor, and no more of the file than that."""
        piece = self._pieces[name]
        if piece.rows is None:
            return self._file.get_tensor(piece.name).reshape(piece.shape)
        return self._file.get_slice(piece.name)[slice(*piece.rows)].reshape(piece.shape)


def find_single_file(name_or_path: str | Path) -> Path | None:
    """Find a single file here, or download it from the Hugging Face hub.

    Args:
        name_or_path: a file, or "owner/name/path/in/the/repository.safetensors".

    Returns:
        The file, or None if this is no file's name.

    Raises:
        InputError: the file is not in the safetensors format, or cannot be downloaded.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if not name or path.is_dir():
        return None
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{name!r} is a pickle, which can run any code when it is read, so only {SUFFIX} is: "
            f"take the model's {SUFFIX} file, or make a folder of this one once by diffusers, "
            f"StableDiffusionPipeline.from_single_file({path.name!r}).save_pretrained(FOLDER), and "
            "give that"
        )
    if path.is_file():
        if path.suffix.lower() != SUFFIX:
            raise InputError(f"{name!r} is a file, but no {SUFFIX}: give one, or a folder")
        return path
    if path.suffix != SUFFIX:
        return None
    if not (match := _ON_THE_HUB.fullmatch(name)):
        raise InputError(f"{name!r}: there is no such file")
    repository, inner = match[1], match[2]
    file = download(repository, [inner], what=repr(name), kind="file") / inner
    if not file.is_file():
        raise InputError(f"{repository!r} on the Hugging Face hub has no file {inner!r}")
    return file


def read_single_file(path: Path, prediction_type: str | None = None) -> SingleFile:
    """Read what a file says of itself; no tensor is read.

    Whether Stable Diffusion 2.x predicts noise or velocity is not seen from its tensors. In this
    order it is: what is asked for; the `modelspec.prediction_type` in the file's header (source:
    Stability AI's ModelSpec); velocity if there is a tensor called `v_pred`, ComfyUI's mark; for
    2.x velocity, as diffusers has it, and for 1.x noise.

    Args:
        prediction_type: "epsilon" or "v_prediction"; None means as above.

    Raises:
        InputError: the file is damaged, or is no Stable Diffusion 1.x or 2.x, complete.
    """
    with open_tensors(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    _refuse_others(path, shapes)
    pieces = find_pieces(shapes)
    ours = {
        network: {name: piece.shape for name, piece in found.items()}
        for network, found in pieces.items()
    }
    marked = "v_prediction" if "v_pred" in shapes else None
    told = prediction_type or _MODELSPEC.get(metadata.get("modelspec.prediction_type"), marked)
    try:
        kind = _kind(path, ours["unet"])
        predicted = told or {"1.x": "epsilon", "2.x": "v_prediction"}[kind]
        configs = make_configs(kind, predicted, ours)
    except KeyError as error:
        what = f"lacks the tensor that diffusers calls {error.args[0]!r}"
        _refuse(path, what, "it is not complete, or no Stable Diffusion")
    configs["scheduler"] = make_scheduler_config(kind, predicted)
    if "ztsnr" in shapes:  # ComfyUI's mark of a schedule that ends in noise alone
        configs["scheduler"]["rescale_betas_zero_snr"] = True
    return SingleFile(path, kind, predicted, bool(told) or kind == "1.x", configs, pieces)


def _refuse_others(path: Path, shapes: Mapping[str, Shape]) -> None:
    for pattern, what, remedy in _OTHERS:
        if any(map(re.compile(pattern).match, shapes)):
            _refuse(path, f"is {what}", remedy)
    first = f"{UNET}input_blocks.0.0.weight"
    if first not in shapes:
        what = f"has no tensor {first!r}, so it is no Stable Diffusion checkpoint"
        _refuse(path, what, "give one in one file, as Civitai has them, or a diffusers folder")
    if shapes[first][1] in _CONDITIONED:
        what = f"is {_CONDITIONED[shapes[first][1]]} ({shapes[first][1]} input channels)"
        _refuse(path, what, f"{_ONLY}, as they make pictures of text")
    if any(name.startswith(f"{UNET}label_emb.") for name in shapes):
        what = "has a U-Net that sees more than the text (label_emb), as Stable unCLIP's does"
        _refuse(path, what, f"{_ONLY}, as they make pictures of text")
    for network, (prefixes, argument) in _NETWORKS.items():
        if not any(name.startswith(prefixes) for name in shapes):
            remedy = (
                f"take a file that has it, or make a folder by diffusers, StableDiffusionPipeline."
                f"from_single_file({path.name!r}, {argument}=...).save_pretrained(FOLDER)"
            )
            _refuse(path, f"has no {network} ({' or '.join(prefixes)}*)", remedy)


def _kind(path: Path, unet: Mapping[str, Shape]) -> str:
    width = context_width(unet)
    kind = STABLE_DIFFUSION_OF_WIDTH.get(width)
    if kind not in SUPPORTED:
        theirs = f"Stable Diffusion {kind}'s" if kind else "of no Stable Diffusion"
        _refuse(path, f"attends to a text of width {width}, which is {theirs}", _ONLY)
    return kind


def _refuse(path: Path, what: str, remedy: str) -> NoReturn:
    raise InputError(f"{str(path)!r} {what}: {remedy}")
