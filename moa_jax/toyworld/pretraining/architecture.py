"""The toy world's networks: configurations as diffusers writes them, and first weights.

They have the structure of Stable Diffusion and a hundredth of its size.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from moa_jax.backbone.clip import TextConfig, TextEncoder, VisionConfig, VisionEncoder
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.unet import UNet, UNetConfig
from moa_jax.backbone.vae import VAE, VAEConfig
from moa_jax.toyworld.pretraining.recipe import NetworksRecipe

Configs = dict[str, dict[str, Any]]  # by the name of the network's folder

VAE_LEVELS = (1, 2, 4, 4)  # channels of each level, in widths of the first
GROUPS = 8  # of every group norm

UNET = {"_class_name": "UNet2DConditionModel", "norm_num_groups": GROUPS}
AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * len(VAE_LEVELS),
    "up_block_types": ["UpDecoderBlock2D"] * len(VAE_LEVELS),
    "norm_num_groups": GROUPS,
}
TEXT = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
VISION = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "model_type": "clip_vision_model",
}

BETAS = {  # those of Stable Diffusion 1.5
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "trained_betas": None,
}
# A small picture's brightness is most of its signal: the noisiest step must not leak any.
# Source: Common Diffusion Noise Schedules and Sample Steps are Flawed (2305.08891).
TOY_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    **BETAS,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "clip_sample": False,
}


def toy_networks(sizes: NetworksRecipe) -> Configs:
    """Give the configurations of the networks to train; the latents' scale is still 1."""
    latent = {"in_channels": sizes.latent_channels, "out_channels": sizes.latent_channels}
    return {
        "unet": {
            **UNET,
            **latent,
            "sample_size": sizes.size // 2 ** (len(VAE_LEVELS) - 1),
            "block_out_channels": [sizes.unet_width, sizes.unet_inner_width],
            "down_block_types": ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2,
            "layers_per_block": sizes.unet_layers,
            "cross_attention_dim": sizes.text_width,
            "attention_head_dim": sizes.unet_heads,
        },
        "vae": {
            **AUTOENCODER,
            "sample_size": sizes.size,
            "block_out_channels": [sizes.vae_width * times for times in VAE_LEVELS],
            "layers_per_block": sizes.vae_layers,
            "latent_channels": sizes.latent_channels,
            "scaling_factor": 1.0,
        },
        "text_encoder": {
            **TEXT,
            "hidden_size": sizes.text_width,
            "intermediate_size": 4 * sizes.text_width,
            "num_hidden_layers": sizes.text_layers,
            "num_attention_heads": sizes.text_heads,
            "max_position_embeddings": sizes.caption_length,
        },
        "image_encoder": {
            **VISION,
            "image_size": sizes.size,
            "patch_size": sizes.vision_patch,
            "hidden_size": sizes.vision_width,
            "intermediate_size": 4 * sizes.vision_width,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "projection_dim": sizes.projection,
        },
    }


def add_vocabulary(configs: Configs, tokenizer: Any) -> Configs:
    """Fit the text tower's configuration to a tokenizer."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    text = {**configs["text_encoder"], **special, "vocab_size": len(tokenizer)}
    return {**configs, "text_encoder": text}


def make_module(name: str, config: dict[str, Any], dtype: Any = jnp.float32) -> nn.Module:
    """Build the network of one folder.

    Args:
        name: unet, vae, text_encoder or image_encoder.
    """
    kinds = {
        "unet": (UNet, UNetConfig),
        "vae": (VAE, VAEConfig),
        "text_encoder": (TextEncoder, TextConfig),
        "image_encoder": (VisionEncoder, VisionConfig),
    }
    network, read = kinds[name]
    return network(read.from_dict(config), dtype=dtype)


def first_params(module: nn.Module, random: np.random.Generator) -> dict[str, Any]:
    """Draw the weights that training starts from, without compiling `init`.

    Kernels are normal with variance 1 / inputs. A U-Net starts as the zero function: the last layer
    of each residual branch, and the output, are zero.
    """
    zero = ("conv_out", "conv2", "proj_out") if isinstance(module, UNet) else ()

    def draw(path: tuple[jax.tree_util.DictKey, ...], shape: jax.ShapeDtypeStruct) -> jax.Array:
        leaf, layer = path[-1].key, path[-2].key.split(".")[-1]
        if leaf in ("scale", "bias"):
            return jnp.full(shape.shape, float(leaf == "scale"))
        spread = 0.02 if "embedding" in leaf else np.prod(shape.shape[:-1]) ** -0.5
        spread = 0.0 if layer in zero else spread
        return jnp.asarray(spread * random.standard_normal(shape.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, parameter_shapes(module))
