"""A Stable Diffusion 1.5 folder with CLIP ViT-L/14 as plans read it: configurations, no weights."""

import json
from pathlib import Path

from moa_jax.backbone.tokenizer import write_tokenizer
from tests.backbone.full_size_configs import (
    SCHEDULER_SD15,
    TEXT_SD15,
    UNET_SD15,
    VAE_SD15,
    VISION_CLIP_L,
)

FILES = {
    "model_index.json": {"_class_name": "StableDiffusionPipeline"},
    "unet/config.json": UNET_SD15,
    "vae/config.json": VAE_SD15,
    "text_encoder/config.json": TEXT_SD15,
    "image_encoder/config.json": VISION_CLIP_L,
    "scheduler/scheduler_config.json": SCHEDULER_SD15,
}


def write_configurations(folder: Path) -> Path:
    """Write the folder; its tokenizer has few words, and gives ids of the same shape."""
    for name, content in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    write_tokenizer(folder / "tokenizer")
    return folder
