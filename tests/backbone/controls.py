"""Small ControlNets of diffusers, and what they are given, for the tests of ours."""

import numpy as np
import pytest

from tests.backbone.parity import channels_last, randomize, relative_error

BASE = {
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "conditioning_embedding_out_channels": [4, 8, 12, 16],
}
UP_BLOCKS = ["UpBlock2D", "CrossAttnUpBlock2D"]


def torch_controlnet(seed=0, **options):
    torch = pytest.importorskip("torch")
    import diffusers

    random = torch.Generator().manual_seed(seed)
    return randomize(diffusers.ControlNetModel(**{**BASE, **options}), random)


def make_inputs(config, size, batch=2):
    random = np.random.default_rng(0)
    pixels = [config.downscale * side for side in size]
    return (
        random.normal(size=(batch, *size, config.in_channels)).astype(np.float32),
        np.array([3, 801])[:batch],
        random.normal(size=(batch, 7, config.context_width)).astype(np.float32),
        random.uniform(size=(batch, *pixels, config.picture_channels)).astype(np.float32),
    )


def to_torch(latents, timesteps, context, *pictures):
    import torch

    maps = [torch.tensor(each).movedim(-1, 1) for each in (latents, *pictures)]
    return maps[0], torch.tensor(timesteps), torch.tensor(context), *maps[1:]


def worst(ours, skips, middle):
    """The largest relative error of any residual."""
    assert len(ours.skips) == len(skips)
    pairs = zip((*ours.skips, ours.middle), (*skips, middle), strict=True)
    return max(relative_error(mine, channels_last(theirs)) for mine, theirs in pairs)
