"""Every default of a training run, as frozen dataclasses: the one place where a default lives.

A file in `configs/` defines `get_config() -> Config`; the command line overrides single values by
their path (`optimizer.learning_rate=1e-4`). A value of another type or out of range is refused,
whether it comes from the command line, a file or `moa.json`. Comments say where a value comes from:
[paper] the MoA paper, [FC] FastComposer's released code, [NeTI] that paper, [ours] our choice where
the paper's text leaves it open or could not be had.
"""

import dataclasses
import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from moa_jax.errors import InputError
from moa_jax.extension import FORM, is_name
from moa_jax.section import (
    Count,
    Decay,
    Inside,
    Positive,
    Probability,
    Range,
    Section,
    Seed,
    Share,
    Weight,
    Whole,
    checked,
    hints_of,
    key_of,
    parse,
)

Sections = TypeVar("Sections")
LAYOUTS = ("auto", "imagefolder", "ffhq", "datasets", "packed")
_LAYOUT = Range(
    f"one of {', '.join(LAYOUTS)}, or {FORM}", lambda name: name in LAYOUTS or is_name(name)
)
Layout = Annotated[str, _LAYOUT]

CONFIGS = Path(__file__).parent / "configs"  # in the repository a link to the folder at its root


@dataclass(frozen=True)
class ModelConfig(Section):
    """The pretrained networks: what the prior is."""

    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # folder, hub id or file
    variant: str | None = None  # "fp16" reads *.fp16.safetensors
    tokenizer: str | None = None  # folder or hub id; None: the base's own, or that of its kind
    prediction_type: Literal["epsilon", "v_prediction"] | None = None  # None: as the base says
    image_encoder: str | None = None  # CLIP folder or hub id; None: the base's own image_encoder/
    # Trained MoA weights to start from: a folder, here or in a bucket, or a hub id,
    # owner/name[@revision]; None: from the prior
    moa: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None  # None: bfloat16, or float32 on a CPU
    remat: bool = False  # recompute blocks in the backward pass: less memory, more work (TPU: ~1/9)
    # Share of the slots for subjects that a step encodes at once; the others follow only where a
    # device has more subjects than that. The result is the same; see training/packing.py
    subject_share: Share = 1.0
    # How attention is computed, see backbone/attention_kernels.py
    attention: Literal["auto", "xla", "blocked", "looped", "flash", "splash", "cudnn"] = "auto"


@dataclass(frozen=True)
class MethodConfig(Section):
    """MoA itself: the mixture, its prompt and its losses."""

    mixture: str = "moa"  # or a variant of your own, package.module:Class(option=1)
    max_subjects: Count = 4  # [FC]
    router: Literal["linear", "mlp", "personalized"] = "linear"  # [ours] personalized: no prior
    initial_personalized_weight: Inside = 0.1  # [ours] small but not dead: starts near the prior
    time_layer_conditioning: bool = True  # [paper]
    sigma_t: Positive = 0.03  # [NeTI] as remembered
    sigma_l: Positive = 2.0  # [NeTI] as remembered
    fourier_features: Count = 128  # [ours] how many random frequencies of (t, l)
    image_encoder_layers: Whole = 2  # [FC] last CLIP layers that learn; 0 keeps the tower frozen
    mask_probability: Probability = 0.5  # [FC]
    router_loss_weight: Weight = 1e-4  # [ours]
    router_loss: Literal["mean", "layers"] = "mean"  # of the layers' mean (MoA's), or of each
    router_loss_skip: Whole = 1  # [ours] transformer blocks at either end that L_router leaves out
    object_loss_weight: Weight = 1e-3  # [FC]
    extra_loss: str | None = None  # a term of your own, package.module:function(option=1)


@dataclass(frozen=True)
class DataConfig(Section):
    """Captioned pictures with a mask per subject, and what is done to them."""

    path: str = ""  # a folder; with the layout datasets also an id on the Hugging Face Hub
    layout: Layout = "auto"  # or a reader of your own, package.module:function(option=1)
    split: Literal["all", "train", "test"] = "all"  # of the ffhq layout's ids, or of a DatasetDict
    subject_label: str | None = "person"  # [FC] the ffhq layout's coco_label; None: every label
    resolution: Count = 512  # [FC] pixels
    buckets: bool = False  # sizes of about resolution² pixels, see data/buckets.py; off: the square
    max_crop: Probability = 0.1  # [ours] share of a picture that its bucket may crop; more: a fault
    augment: bool = True  # [FC]
    encoded: str | None = None  # folder for what frozen encoders make of unaugmented pictures
    latents: str | None = None  # folder for the VAE's latents of all pictures, with both flips
    resident: bool = False  # keep data.encoded in the devices' memory, on one host
    condition_dropout: Probability = 0.1  # [FC]
    subject_dropout: Probability = 0.1  # [FC]
    # [ours] how often a subject that has references is shown by one, not by its own crop
    reference_probability: Probability = 1.0
    workers: Whole = 8  # threads that read and augment; 0: none, the run does it itself
    max_bad_fraction: Probability = 0.01  # more bad records than this stop the run

    def source(self) -> tuple[str, str, str, str | None]:
        """Return path, layout, split and subject label, which decide what records there are."""
        return self.path, self.layout, self.split, self.subject_label


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW over what learns."""

    learning_rate: Weight = 1e-5  # [FC]
    muon_learning_rate: Weight | None = None  # [ours] matrices learn by Muon; None: AdamW for all
    schedule: Literal["constant", "cosine"] = "constant"  # [FC]
    warmup_steps: Whole = 0
    router_start: Whole = 0  # [ours] step from which routers learn: see configs/toy.py
    weight_decay: Weight = 1e-2  # [FC]
    max_grad_norm: Positive = 1.0  # [FC] over what learns
    accumulation: Count = 1  # micro-batches a step
    ema_decay: Decay | None = None


@dataclass(frozen=True)
class TrainConfig(Section):
    """The run: how long, how often, where to."""

    steps: Count = 150_000  # [FC]
    batch_size: Count = 128  # [FC] over all devices and micro-batches
    seed: Seed = 0
    output: str = "runs/moa"
    log_every: Count = 10
    sample_every: Count | None = 1_000
    sample_steps: Count = 50  # sampler steps of the preview pictures
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 3
    profile_steps: str | None = None  # "10:13": a trace of these steps, for xprof
    wandb: str | None = None  # project of Weights & Biases to log to as well
    trackio: str | None = None  # project of trackio, likewise, on this machine
    probe: str | None = None  # numbers of your own at each log entry, package.module:function


@dataclass(frozen=True)
class MeshConfig(Section):
    """Devices along each axis of the mesh, or a preset that says which axis takes them all."""

    preset: Literal["dp", "fsdp", "fsdp+tp"] | None = None  # None: the axes as given
    data: Count | None = None  # None: all devices that the other axes leave, or by the preset
    fsdp: Count | None = None  # None: 1, or as the preset has it
    tensor: Count | None = None  # None: 1, or 2 with the preset fsdp+tp


@dataclass(frozen=True)
class Config:
    """One training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


def known_configs() -> list[str]:
    """List the names of the configs that come with the package, which `load_config` takes."""
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def load_config(path: str | Path) -> Config:
    """Run `get_config()` of a Python file.

    Args:
        path: the file, or the name of a config that comes with the package, such as "toy".

    Raises:
        InputError: there is no such file or name, it does not run, it does not return a Config, or
            a value is out of range.
    """
    known = known_configs()
    path = Path(path) if str(path) not in known or Path(path).is_file() else CONFIGS / f"{path}.py"
    if not path.is_file():
        others = ", ".join(sorted(str(other) for other in path.parent.glob("*.py")))
        raise InputError(
            f"config {str(path)!r} is neither a file nor the name of one that comes with moa_jax "
            f"({', '.join(known)}); in {str(path.parent)!r} are {others or 'no others'}"
        )
    spec = importlib.util.spec_from_file_location(f"moa_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"config {str(path)!r} is not a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except InputError as error:
        raise InputError(f"config {str(path)!r}: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"config {str(path)!r} does not run: {reason}") from error
    if not isinstance(config, Config):
        raise InputError(f"get_config() in {str(path)!r} gave {type(config).__name__}, not Config")
    return config


def override(config: Sections, assignments: Sequence[str]) -> Sections:
    """Apply `section.key=value` assignments, converted to the type each field declares.

    Args:
        config: a Config, or another frozen dataclass of sections.

    Raises:
        InputError: there is no `=`, the key is unknown (the message gives the nearest names), or
            the value has another type or is out of range.

    Example:
        >>> from moa_jax.config import Config, override
        >>> override(Config(), ["train.steps=1_000", "optimizer.ema_decay=0.99"]).train.steps
        1000
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"override {assignment!r} is not of the form section.key=value")
        config = _replace(config, path.split("."), text, path, list(flatten(config)))
    return config


def flatten(config: Any) -> dict[str, Any]:
    """List every value under its `section.key`."""
    return {
        f"{section}.{key}": value
        for section, values in dataclasses.asdict(config).items()
        for key, value in values.items()
    }


def from_dict(kind: type, values: Mapping[str, Any]) -> Any:
    """Rebuild a config dataclass from what `dataclasses.asdict` and JSON made of it.

    Raises:
        InputError: the dataclass does not have a key, or a value has another type or is out of
            range.
    """
    hints = hints_of(kind)
    if unknown := set(values) - set(hints):
        raise InputError(
            f"unknown {kind.__name__} keys {sorted(unknown)}: written by a newer moa_jax?"
        )
    return kind(
        **{
            key: from_dict(hints[key], value)
            if dataclasses.is_dataclass(hints[key])
            else checked(key_of(kind, key), value, hints[key])
            for key, value in values.items()
        }
    )


def _replace(node: Any, keys: Sequence[str], text: str, path: str, names: list[str]) -> Any:
    key, rest = keys[0], keys[1:]
    hints = hints_of(type(node))
    if key not in hints or bool(rest) != dataclasses.is_dataclass(hints[key]):
        near = difflib.get_close_matches(path, names, n=3, cutoff=0.4)
        near += [name for name in names if name.endswith("." + path) and name not in near]
        raise InputError(f"unknown config key {path!r}; the nearest: {', '.join(near or names)}")
    if rest:
        value = _replace(getattr(node, key), rest, text, path, names)
    else:
        value = checked(path, parse(hints[key], text, path), hints[key])
    return dataclasses.replace(node, **{key: value})
