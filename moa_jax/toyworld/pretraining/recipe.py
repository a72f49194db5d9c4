"""The recipe of the toy world's pretraining: every size, weight and step count, in one place.

`python -m moa_jax.toyworld.pretraining` follows it, and overrides single values by their path
(`unet.steps=2000`). All values are our own choice. On 2 CPU cores the scenes take 5 minutes, the
autoencoder 27 (held-out PSNR 25.6 dB), the towers 11 (of 256 held-out pictures, 87 % are nearest to
their own caption), the stage `looks` 15, the U-Net 70 and the readers 23 (of 1,000 held-out scenes
they read at least 96.8 % of everything right).
"""

from dataclasses import dataclass, field
from typing import Literal

from moa_jax.config import MeshConfig
from moa_jax.toyworld import WEIGHTS

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ScenesRecipe:
    """The pictures that everything is trained on."""

    count: int = 100_000  # a multiple of 4: scenes come in groups
    held_out: int = 1_024
    seed: int = 0
    held_out_seed: int = 1
    workers: int | None = None  # processes that render; None means one per core


@dataclass(frozen=True)
class NetworksRecipe:
    """Sizes of the networks; a width is that of the first level."""

    size: int = 64  # side of the pictures in pixels
    caption_length: int = 32  # tokens
    vae_width: int = 16  # the four levels have 1, 2, 4, 4 times as many channels
    vae_layers: int = 1
    latent_channels: int = 16
    unet_width: int = 64  # of the level of 8x8 latents
    unet_inner_width: int = 160  # of the level of 4x4
    unet_layers: int = 1
    unet_heads: int = 4
    text_width: int = 96
    text_layers: int = 2
    text_heads: int = 4
    vision_width: int = 128
    vision_layers: int = 3
    vision_heads: int = 4
    vision_patch: int = 8  # pixels
    projection: int = 64


@dataclass(frozen=True)
class TrainingRecipe:
    """What all trainings have: AdamW, a warm-up, then half a cosine down to 0."""

    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    muon_learning_rate: float | None = None  # of matrices, by Muon instead of AdamW
    warmup_steps: int = 100
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    ema_decay: float | None = 0.999
    seed: int = 0
    log_every: int = 50
    sample_every: int | None = 500
    checkpoint_every: int = 250


@dataclass(frozen=True)
class VAERecipe(TrainingRecipe):
    """The autoencoder: errors of pixels and edges, and a little of the KL divergence.

    Most steps see small crops, every other one around a head: a crop costs a quarter of a picture,
    and faces are what a reconstruction loses first. The last steps see entire pictures. Crops are
    cut on the host, and a fast device would wait for them: `crop_steps=0` with a larger
    `people_weight` serves it better.
    """

    steps: int = 7_000
    batch_size: int = 16
    dtype: Dtype = "float32"  # that the networks compute in; parameters stay float32
    learning_rate: float = 2e-3
    crop_steps: int = 6_000
    crop_size: int = 32
    crops: int = 2  # of each picture of a batch
    people_weight: float = 1.0  # of a person's pixel, against 1 elsewhere
    square_weight: float = 4.0  # of squared errors, against 1 of absolute ones
    edge_weight: float = 1.0  # of errors in the difference between neighbouring pixels
    kl_weight: float = 2e-4


@dataclass(frozen=True)
class CLIPRecipe(TrainingRecipe):
    """The two towers: pictures against captions, and views of one person against other people."""

    steps: int = 700
    batch_size: int = 24  # groups of four scenes
    dtype: Dtype = "float32"  # that the networks compute in; parameters stay float32
    weight_decay: float = 5e-2
    caption_weight: float = 1.0
    identity_weight: float = 1.0
    described: float = 0.0  # share of the captions that name attributes of people
    sample_every: int | None = 100  # retrieval among held-out scenes


@dataclass(frozen=True)
class LooksRecipe(TrainingRecipe):
    """The vision tower alone: what people look like."""

    steps: int = 2_000
    batch_size: int = 24  # groups of four scenes
    dtype: Dtype = "float32"  # that the networks compute in; parameters stay float32
    ema_decay: float | None = 0.99
    identity_weight: float = 0.3
    sample_every: int | None = 400  # the reading of held-out people


@dataclass(frozen=True)
class UNetRecipe(TrainingRecipe):
    """The prior."""

    steps: int = 8_000
    batch_size: int = 64
    dtype: Dtype = "float32"  # that the networks compute in; parameters stay float32
    condition_dropout: float = 0.1
    described: float = 0.0  # share of the captions that name attributes of people
    guidance_scale: float = 4.0  # of the previews
    sample_steps: int = 25


@dataclass(frozen=True)
class ReadersRecipe(TrainingRecipe):
    """The judges of the evaluation."""

    steps: int = 3_000
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    ema_decay: float | None = 0.99
    sample_every: int | None = 400  # accuracy on held-out scenes
    checkpoint_every: int = 400


@dataclass(frozen=True)
class Recipe:
    """One pretraining."""

    scenes: ScenesRecipe = field(default_factory=ScenesRecipe)
    networks: NetworksRecipe = field(default_factory=NetworksRecipe)
    vae: VAERecipe = field(default_factory=VAERecipe)
    clip: CLIPRecipe = field(default_factory=CLIPRecipe)
    looks: LooksRecipe = field(default_factory=LooksRecipe)
    unet: UNetRecipe = field(default_factory=UNetRecipe)
    readers: ReadersRecipe = field(default_factory=ReadersRecipe)
    mesh: MeshConfig = field(default_factory=MeshConfig)


@dataclass(frozen=True)
class StyleRecipe(TrainingRecipe):
    """The cyanotype's LoRA: pictures in one ink. It takes 4 minutes on 2 shared cores."""

    steps: int = 800
    batch_size: int = 16
    learning_rate: float = 5e-3
    warmup_steps: int = 20
    weight_decay: float = 0.0
    ema_decay: float | None = 0.98
    sample_every: int | None = None
    condition_dropout: float = 0.1
    rank: int = 8
    ink: tuple[float, float, float] = (0.0, 0.05, 0.40)  # RGB
    paper: tuple[float, float, float] = (0.95, 1.0, 1.0)
    black: float = 0.12  # brightness that is all ink: the world's own contrast is low
    white: float = 0.85  # brightness that is all paper


@dataclass(frozen=True)
class OutlineRecipe(TrainingRecipe):
    """The outlines' ControlNet. It takes 9 minutes on 2 shared cores.

    It does not attend at the coarse level, which makes it a fifth smaller.
    """

    steps: int = 1_500
    batch_size: int = 16
    warmup_steps: int = 50
    ema_decay: float | None = 0.99
    sample_every: int | None = None
    condition_dropout: float = 0.1
    widths: tuple[int, ...] = (8, 16, 16, 32)  # of the convolutions on the control picture
    down_blocks: tuple[str, ...] = ("CrossAttnDownBlock2D", "DownBlock2D")


@dataclass(frozen=True)
class WorldRecipe:
    """The base model and the scenes that the style and the outlines are trained on."""

    base: str = str(WEIGHTS / "base")
    count: int = 4_096  # scenes, a multiple of 4
    seed: int = 0


@dataclass(frozen=True)
class AddonsRecipe:
    """The trainings of the style and of the outlines."""

    world: WorldRecipe = field(default_factory=WorldRecipe)
    style: StyleRecipe = field(default_factory=StyleRecipe)
    outline: OutlineRecipe = field(default_factory=OutlineRecipe)
    mesh: MeshConfig = field(default_factory=MeshConfig)
