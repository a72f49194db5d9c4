"""The names of Stable Diffusion's tensors in a single file, as CompVis' code wrote them first.

A single file numbers the blocks of the U-Net from one end to the other, counts the decoder's levels
from fine to coarse, and holds OpenCLIP's text tower with queries, keys and values in one tensor.
diffusers and transformers name and cut them in other ways, and the networks here go by theirs.
Nothing here reads a tensor.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

Shape = tuple[int, ...]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
# The text towers of Stable Diffusion 1.x (transformers' CLIP) and 2.x (OpenCLIP).
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
# What these networks' own parts of a file may hold besides what drawing needs: the VAE's loss
# in training and its average, and the parts of CLIP that compare texts with pictures.
UNUSED = re.compile(
    rf"{re.escape(VAE)}(loss|model_ema)\.|"
    r"cond_stage_model\.(model|transformer)\.(logit_scale|text_projection|attn_mask)"
)

LAYERS = 2  # residual blocks at each level of the U-Net, in all of Stable Diffusion 1.x and 2.x
# Stable Diffusion 2.x takes the text from the last but one of OpenCLIP ViT-H's 24 layers, and
# diffusers leaves out the last one. Source: v2-inference.yaml of Stability-AI/stablediffusion.
TEXT_LAYERS = 23

_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v"}
_VAE_ATTENTION |= {"proj_out": "to_out.0"}
_OPEN_CLIP_ENDS = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_FUSED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")


class Piece(NamedTuple):
    """Where a tensor, as diffusers has it, is in a file.

    Attributes:
        name: the file's tensor.
        shape: what diffusers has; the file's may have axes of length 1 more.
        rows: first and last row, where several tensors are one in the file; None means all rows.
    """

    name: str
    shape: Shape
    rows: tuple[int, int] | None = None

    def get_shape(self) -> Shape:
        """Give the shape, by the name that safetensors' slices have for it."""
        return self.shape


Pieces = dict[str, Piece]


def find_pieces(shapes: Mapping[str, Shape]) -> dict[str, Pieces]:
    """Find the tensors of each network in a file.

    Args:
        shapes: of all tensors of the file, by their names there.

    Returns:
        For "unet", "vae" and "text_encoder" the pieces by diffusers' names, or transformers'. A
        tensor that has none keeps its own. What belongs to no network is left out.
    """
    found: dict[str, Pieces] = {"unet": {}, "vae": {}, "text_encoder": {}}
    numbers = (re.match(rf"{re.escape(VAE)}decoder\.up\.(\d+)\.", name) for name in shapes)
    levels = len({number[1] for number in numbers if number})
    for name, shape in shapes.items():
        if UNUSED.match(name):
            continue
        if name.startswith(UNET):
            found["unet"][unet_name(name.removeprefix(UNET))] = Piece(name, shape)
        elif name.startswith(VAE):
            key = vae_name(name.removeprefix(VAE), levels)
            found["vae"][key] = Piece(name, _matrix(key, shape))
        elif name.startswith(CLIP):
            found["text_encoder"][name.removeprefix(CLIP)] = Piece(name, shape)
        elif name.startswith(OPEN_CLIP):
            found["text_encoder"] |= _open_clip_pieces(name, shape)
    return found


def unet_name(name: str) -> str:
    """Give diffusers' name of a tensor of the U-Net; one that it has not stays as it is."""
    module, _, leaf = name.rpartition(".")
    if module in _UNET_ENDS:
        return f"{_UNET_ENDS[module]}.{leaf}"
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", name):
        return f"mid_block.{_UNET_MIDDLE[match[1]]}.{_renamed(match[2], _UNET_RESNET)}"
    if not (match := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)):
        return name
    # On the way down, conv_in is block 0, and each level ends with a block that halves. On the way
    # up each level has a residual block more, whose block doubles after it.
    down = match[1] == "input"
    level, layer = divmod(int(match[2]) - down, LAYERS + 1)
    rest = match[4]
    if rest.startswith(("op.", "conv.")):
        resize = "down_blocks.{}.downsamplers.0.conv" if down else "up_blocks.{}.upsamplers.0.conv"
        return f"{resize.format(level)}.{leaf}"
    stage = f"{'down' if down else 'up'}_blocks.{level}"
    kind = "resnets" if match[3] == "0" else "attentions"
    return f"{stage}.{kind}.{layer}.{_renamed(rest, _UNET_RESNET)}"


def vae_name(name: str, levels: int) -> str:
    """Give diffusers' name of a tensor of the VAE; one that it has not stays as it is.

    Args:
        levels: of the decoder, which the two layouts count from different ends.
    """
    name = name.replace(".norm_out.", ".conv_norm_out.")
    name = name.replace(".nin_shortcut.", ".conv_shortcut.")
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.block_([12])\.(.+)", name):
        return f"{match[1]}.mid_block.resnets.{int(match[2]) - 1}.{match[3]}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.attn_1\.(.+)", name):
        return f"{match[1]}.mid_block.attentions.0.{_renamed(match[2], _VAE_ATTENTION)}"
    if match := re.fullmatch(r"encoder\.down\.(\d+)\.(.+)", name):
        stage, resize = f"encoder.down_blocks.{match[1]}", "downsamplers.0"
    elif match := re.fullmatch(r"decoder\.up\.(\d+)\.(.+)", name):
        stage, resize = f"decoder.up_blocks.{levels - 1 - int(match[1])}", "upsamplers.0"
    else:
        return name
    inner = re.sub(r"^block\.", "resnets.", match[2])
    inner = re.sub(r"^(down|up)sample\.", f"{resize}.", inner)
    return f"{stage}.{inner}"


def _matrix(key: str, shape: Shape) -> Shape:
    """Give the shape of a matrix where the file has a convolution of one pixel."""
    is_convolution = ".attentions." in key and key.endswith(".weight") and len(shape) > 2
    return shape[:2] if is_convolution else shape


def _open_clip_pieces(name: str, shape: Shape) -> Pieces:
    """Name a tensor of OpenCLIP's text tower, or cut the one that holds three."""
    short = name.removeprefix(OPEN_CLIP)
    if short in _OPEN_CLIP_ENDS:
        return {_OPEN_CLIP_ENDS[short]: Piece(name, shape)}
    if not (match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", short)):
        return {short: Piece(name, shape)}
    if int(match[1]) >= TEXT_LAYERS:
        return {}
    layer = f"text_model.encoder.layers.{match[1]}"
    if not (fused := _FUSED.fullmatch(short)):
        return {f"{layer}.{_renamed(match[2], _OPEN_CLIP_LAYER)}": Piece(name, shape)}
    width = shape[0] // 3
    return {
        f"{layer}.self_attn.{part}_proj.{fused[2]}": Piece(
            name, (width, *shape[1:]), (number * width, (number + 1) * width)
        )
        for number, part in enumerate("qkv")
    }


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """Replace the module's part of a tensor's name, if it has another name."""
    module, _, leaf = name.rpartition(".")
    return f"{names.get(module, module)}.{leaf}"
