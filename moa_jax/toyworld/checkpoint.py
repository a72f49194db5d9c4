"""A small random Stable Diffusion folder, for when no download is at hand: `make demo`, tests.

Its weights are random numbers, never trained: pictures made from it show that the machinery runs,
and are colourful noise, not what MoA draws. The folder has diffusers' layout and diffusers reads
it; the networks have the structure of Stable Diffusion 1.x and a thousandth of its size.
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from moa_jax.backbone.clip import TextConfig, TextEncoder, VisionConfig, VisionEncoder
from moa_jax.backbone.stable_diffusion import (
    Component,
    StableDiffusion,
    parameter_shapes,
    save_stable_diffusion,
)
from moa_jax.backbone.tokenizer import load_tokenizer
from moa_jax.backbone.unet import UNet, UNetConfig
from moa_jax.backbone.vae import VAE, VAEConfig
from moa_jax.toyworld.tokenizer import write_tokenizer

CONTEXT_WIDTH = 32

UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,  # latents of 128x128 pictures
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": CONTEXT_WIDTH,
    "attention_head_dim": 4,
}
VAE_CONFIG = {
    "_class_name": "AutoencoderKL",
    "sample_size": 128,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [16, 16, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": CONTEXT_WIDTH,
    "intermediate_size": 4 * CONTEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
}
VISION = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "model_type": "clip_vision_model",
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": CONTEXT_WIDTH,
}
# That of Stable Diffusion 1.5.
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def write_checkpoint(folder: Path, seed: int = 0) -> None:
    """Write a random Stable Diffusion 1.x folder with an image encoder, for 128x128 pictures.

    Args:
        folder: made if absent.
        seed: the same seed gives the same weights.
    """
    write_tokenizer(folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer")
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    text = {**TEXT, **special, "vocab_size": len(tokenizer)}
    modules = {
        "unet": (UNet(UNetConfig.from_dict(UNET)), UNET),
        "vae": (VAE(VAEConfig.from_dict(VAE_CONFIG)), VAE_CONFIG),
        "text_encoder": (TextEncoder(TextConfig.from_dict(text)), text),
        "image_encoder": (VisionEncoder(VisionConfig.from_dict(VISION)), VISION),
    }
    random = np.random.default_rng(seed)
    networks = {
        name: _component(module, config, random) for name, (module, config) in modules.items()
    }
    sd = StableDiffusion(
        **networks, tokenizer=tokenizer, scheduler_config=SCHEDULER, path=folder, name=str(folder)
    )
    save_stable_diffusion(folder, sd)


def _component(module: nn.Module, config: dict[str, Any], random: np.random.Generator) -> Component:
    def draw(path: tuple[jax.tree_util.DictKey, ...], shape: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name in ("scale", "bias"):
            return jnp.full(shape.shape, float(name == "scale"))
        spread = 1.0 if "embedding" in name else np.sqrt(np.prod(shape.shape[:-1]))
        return jnp.asarray(random.standard_normal(shape.shape) / spread, jnp.float32)

    params = jax.tree_util.tree_map_with_path(draw, parameter_shapes(module))
    return Component(module, params, config, fingerprint="")
