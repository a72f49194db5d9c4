"""Stable Diffusion in one file, made of a diffusers pipeline by the published rules of the names.

Source: diffusers' scripts/convert_diffusers_to_original_stable_diffusion.py. It goes the other way
than moa_jax.backbone.single_file_names, block by block.
"""

import json
import math
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from moa_jax.backbone.tokenizer import write_tokenizer
from tests.backbone.full_size_configs import SCHEDULER_SD15, SCHEDULER_SD21
from tests.backbone.parity import randomize

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
TOWER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
LAYERS = 2


def unet_places(up_attends):
    """CompVis' place of every part of a U-Net; `up_attends` says which levels attend, going up."""
    levels = len(up_attends)
    places = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 0
    for level in range(levels):
        for layer in range(LAYERS):
            number += 1
            places[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
        number += 1
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
    number = -1
    for level in range(levels):
        for layer in range(LAYERS + 1):
            number += 1
            places[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
        last = 2 if up_attends[level] else 1
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number}.{last}.conv"
    return places


def vae_places(levels):
    """CompVis' place of every part of a VAE."""
    places = {}
    for half, stage, layers in (("encoder", "down", LAYERS), ("decoder", "up", LAYERS + 1)):
        places[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        places[f"{half}.mid_block.resnets.0"] = f"{half}.mid.block_1"
        places[f"{half}.mid_block.attentions.0"] = f"{half}.mid.attn_1"
        places[f"{half}.mid_block.resnets.1"] = f"{half}.mid.block_2"
        for level in range(levels):
            theirs = f"{half}.{stage}.{level if half == 'encoder' else levels - 1 - level}"
            ours = f"{half}.{stage}_blocks.{level}"
            for layer in range(layers):
                places[f"{ours}.resnets.{layer}"] = f"{theirs}.block.{layer}"
            places[f"{ours}.{stage}samplers.0"] = f"{theirs}.{stage}sample"
    return places


def placed(name, places):
    """Put a part's place in the place of its name."""
    for ours, theirs in places.items():
        if name.startswith(f"{ours}."):
            return theirs, name.removeprefix(ours)
    return name[: name.index(".")], name[name.index(".") :]


def inner(rest, names):
    module, _, leaf = rest.removeprefix(".").rpartition(".")
    return f".{names.get(module, module)}.{leaf}".replace("..", ".")


def unet_file(state, up_attends):
    places, found = unet_places(up_attends), {}
    for name, tensor in state.items():
        place, rest = placed(name, places)
        rest = inner(rest, RESNET) if ".resnets." in name else rest
        found[f"model.diffusion_model.{place}{rest}"] = tensor
    return found


def vae_file(state, levels):
    places, found = vae_places(levels), {}
    for name, tensor in state.items():
        place, rest = placed(name, places)
        if ".attentions." in name:
            rest = inner(rest, ATTENTION)
            if tensor.ndim == 2:  # a convolution of one pixel
                tensor = tensor[:, :, None, None]
        rest = rest.replace("conv_shortcut", "nin_shortcut")
        found[f"first_stage_model.{place}{rest}"] = tensor
    return found


def clip_file(state):
    return {f"cond_stage_model.transformer.text_model.{k}": v for k, v in bare(state).items()}


def open_clip_file(state, join=np.concatenate):
    """OpenCLIP's names; queries, keys and values are joined into one tensor."""
    prefix, found, parts = "cond_stage_model.model.", {}, {}
    ends = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    for name, tensor in bare(state).items():
        if name in ends:
            found[prefix + ends[name]] = tensor
            continue
        layer, rest = re.fullmatch(r"encoder\.layers\.(\d+)(.+)", name).groups()
        block = f"{prefix}transformer.resblocks.{layer}"
        if part := re.fullmatch(r"\.self_attn\.([qkv])_proj\.(weight|bias)", rest):
            parts.setdefault(f"{block}.attn.in_proj_{part[2]}", {})[part[1]] = tensor
        else:
            found[block + inner(rest, TOWER)] = tensor
    return found | {name: join([three[part] for part in "qkv"]) for name, three in parts.items()}


def bare(state):
    """transformers' names since 5.6, which has taken away the first part."""
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}


def tiny_pipeline(kind, folder):
    """A small random Stable Diffusion "1.x" or "2.x", written to a folder and given back."""
    torch = pytest.importorskip("torch")
    import diffusers
    import transformers

    torch.manual_seed(0)
    write_tokenizer(folder / "words")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "words")
    width, channels = {"1.x": (768, (32, 64)), "2.x": (1024, (64, 128))}[kind]
    heads = {"1.x": 8, "2.x": [each // 64 for each in channels]}[kind]
    linear = {"use_linear_projection": True, "upcast_attention": True} if kind == "2.x" else {}
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=heads,
        sample_size=96 if kind == "2.x" else 64,
        **linear,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=LAYERS,
    )
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        hidden_act={"1.x": "quick_gelu", "2.x": "gelu"}[kind],
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=randomize(vae, spread=0.2),
        text_encoder=randomize(transformers.CLIPTextModel(text), spread=0.2),
        tokenizer=tokenizer,
        unet=randomize(unet, spread=0.2),
        scheduler=diffusers.DDIMScheduler(),  # another is written below
        image_encoder=None,
        feature_extractor=None,
        safety_checker=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    scheduler = {"1.x": SCHEDULER_SD15, "2.x": SCHEDULER_SD21}[kind]
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    return pipeline


def to_file(pipeline):
    """All tensors of a pipeline by CompVis' names."""
    unet, vae, text = (
        {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    )
    attends = ["Attn" in block for block in pipeline.unet.config.up_block_types]
    found = unet_file(unet, attends) | vae_file(vae, len(pipeline.vae.config.block_out_channels))
    is_2 = pipeline.unet.config.cross_attention_dim == 1024
    return found | (open_clip_file(text) if is_2 else clip_file(text))


def write_file(file, tensors, **metadata):
    """Write a file as safetensors."""
    save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, file, metadata)
    return file


def write_hollow(file, shapes):
    """Write a file of zeros that takes no room on the disk: only its header is written."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        handle.truncate(8 + len(text) + end)
    return file
