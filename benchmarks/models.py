"""Stable Diffusion with random weights, at full size or tiny, as a folder that both sides read.

Random weights cost what trained ones cost, and nothing has to be downloaded. Both sides read the
same folder, so that they draw with the same networks.

    python -m benchmarks.models sd15 FOLDER
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from moa_jax.backbone.clip import TextConfig, TextEncoder, VisionConfig, VisionEncoder
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.stable_diffusion import pipeline_index
from moa_jax.backbone.tokenizer import END, START, write_tokenizer
from moa_jax.backbone.unet import UNet, UNetConfig
from moa_jax.backbone.vae import VAE, VAEConfig
from moa_jax.backbone.weights import save_params
from moa_jax.errors import InputError

SIZES = ("sd15", "tiny")
TOY_WORLD = "moa_jax/toyworld/weights/base"
DRAWN = 2**22  # random numbers, which all weights share

_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def configs(size: str) -> dict[str, dict[str, Any]]:
    """Give `config.json` of each network, as Stable Diffusion 1.5 and CLIP ViT-L/14 have it.

    Args:
        size: "sd15", or "tiny" for a thousandth of the weights and the same layers.
    """
    tiny = size == "tiny"
    widths = [32, 32, 64, 64] if tiny else [320, 640, 1280, 1280]
    text, seen = (32, 64) if tiny else (768, 1024)
    tower = {"attention_dropout": 0.0, "hidden_act": "quick_gelu", "projection_dim": text}
    return {
        "unet": {
            "_class_name": "UNet2DConditionModel",
            "act_fn": "silu",
            "attention_head_dim": 8,
            "block_out_channels": widths,
            "cross_attention_dim": text,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "sample_size": 64,
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        },
        "vae": {
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": [32, 32, 32, 32] if tiny else [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "latent_channels": 4,
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "sample_size": 512,
            "scaling_factor": 0.18215,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
        "text_encoder": {
            **tower,
            "architectures": ["CLIPTextModel"],
            "hidden_size": text,
            "intermediate_size": 4 * text,
            "max_position_embeddings": 77,
            "model_type": "clip_text_model",
            "num_attention_heads": 4 if tiny else 12,
            "num_hidden_layers": 2 if tiny else 12,
            "vocab_size": 2000 if tiny else 49408,
        },
        "image_encoder": {
            **tower,
            "architectures": ["CLIPVisionModelWithProjection"],
            "hidden_size": seen,
            "image_size": 28 if tiny else 224,
            "intermediate_size": 4 * seen,
            "model_type": "clip_vision_model",
            "num_attention_heads": 4 if tiny else 16,
            "num_hidden_layers": 3 if tiny else 24,
            "patch_size": 14,
        },
    }


def modules(size: str) -> dict[str, Any]:
    """Make the networks of `configs`."""
    given = configs(size)
    return {
        "unet": UNet(UNetConfig.from_dict(given["unet"])),
        "vae": VAE(VAEConfig.from_dict(given["vae"])),
        "text_encoder": TextEncoder(TextConfig.from_dict(given["text_encoder"])),
        "image_encoder": VisionEncoder(VisionConfig.from_dict(given["image_encoder"])),
    }


@contextmanager
def opened(size: str, dtype: str = "float16", image_encoder: bool = True) -> Iterator[Path]:
    """Give the folder of a checkpoint; one of random weights is removed in the end.

    Args:
        size: one of SIZES, "toy" for the toy world's trained weights, or a diffusers folder.
        dtype: that random weights are written in.
        image_encoder: whether to write the tower that MoA sees its subjects with.

    Raises:
        InputError: `size` is none of these.
    """
    if size == "toy":
        yield Path(TOY_WORLD)
    elif Path(size).is_dir():
        yield Path(size)
    elif size in SIZES:
        with TemporaryDirectory(prefix="moa_jax_benchmark_") as name:
            yield write_folder(Path(name), size, dtype, image_encoder)
    else:
        raise InputError(
            f"--size={size!r}: must be {', '.join(SIZES)}, toy, or the folder of a checkpoint"
        )


def write_folder(folder: Path, size: str, dtype: str, image_encoder: bool = True) -> Path:
    """Write a checkpoint of random weights as diffusers writes one."""
    given = write_configs(folder, size, image_encoder)
    for name, module in modules(size).items():
        if name in given:
            save_params(folder / name, _random(parameter_shapes(module), dtype), given[name])
    return folder


def write_configs(folder: Path, size: str, image_encoder: bool = True) -> dict[str, dict[str, Any]]:
    """Write the configurations and the tokenizer of a checkpoint: all that a plan reads.

    Returns:
        `config.json` of each network, by the network's name.
    """
    given = configs(size)
    if not image_encoder:
        del given["image_encoder"]
    write_tokenizer(folder / "tokenizer")
    words = json.loads((folder / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    given["text_encoder"] |= {
        "bos_token_id": words[START],
        "eos_token_id": words[END],
        "pad_token_id": words[END],
    }
    files = {f"{name}/config.json": content for name, content in given.items()}
    files["scheduler/scheduler_config.json"] = _SCHEDULER
    files["model_index.json"] = pipeline_index("DDIMScheduler", image_encoder)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    return given


def _random(shapes: Any, dtype: str) -> Any:
    """Draw weights of a spread that keeps what flows through the networks near 1."""
    import jax

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name != "kernel":  # gains of 1; biases and embeddings are small
            values = np.resize(_numbers(), leaf.shape) * 0.02 + (name == "scale")
        else:
            values = np.resize(_numbers(), leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return values.astype(dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@cache
def _numbers() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(DRAWN, dtype=np.float32)


if __name__ == "__main__":
    write_folder(Path(sys.argv[2]), sys.argv[1], "float16")
