"""LoRA files for the tests: random changes of the layers of a network, in every layout."""

import re

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

EVERYTHING = r".*"
ATTENTION = r".*(attn[12]\.to_(q|k|v|out\.0)|self_attn\.(q|k|v|out)_proj)"
ROLES = ("down", "up")


def draw(params, layers=EVERYTHING, rank=3, seed=0):
    """Draw the factors of the layers whose name in diffusers an expression matches.

    Returns:
        {network: {layer: (down, up)}}, in PyTorch's order of axes.
    """
    random = np.random.default_rng(seed)
    drawn = {"unet": {}, "text_encoder": {}}
    for component, found in drawn.items():
        for path, leaf in flatten_dict(params[component]).items():
            name = ".".join(path[:-1])
            own = path[-1] == "kernel" and not {"personalized", "router"} & set(path)
            if own and re.fullmatch(layers, name):
                *kernel, width, out = leaf.shape
                down = random.normal(size=(rank, width, *kernel)) / np.sqrt(width * 9)
                up = random.normal(size=(out, rank, *[1] * len(kernel))) / np.sqrt(rank)
                found[name] = (down.astype(np.float32), up.astype(np.float32))
    return drawn


def kohya(drawn, alpha=None):
    """Name them as kohya's scripts do, with an alpha of each layer if there is any."""
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    tensors = {}
    for component, name, factors in each(drawn):
        layer = prefixes[component] + name.replace(".", "_")
        for role, factor in zip(ROLES, factors, strict=True):
            tensors[f"{layer}.lora_{role}.weight"] = factor
        if alpha is not None:
            tensors[f"{layer}.alpha"] = np.array(alpha, np.float32)
    return tensors


def peft(drawn, prefix="", roles=(".lora_A", ".lora_B")):
    """Name them as diffusers does now, with peft's names of the factors."""
    return {
        f"{prefix}{component}.{name}{role}.weight": factor
        for component, name, factors in each(drawn)
        for role, factor in zip(roles, factors, strict=True)
    }


def old_diffusers(drawn):
    """Name them as diffusers did before peft: attention only."""
    tensors = {}
    for component, name, factors in each(drawn):
        name = re.sub(r"(attn[12])\.to_(q|k|v|out)(\.0)?", r"\1.processor.to_\2_lora", name)
        name = re.sub(r"self_attn\.(q|k|v|out)_proj", r"self_attn.to_\1_lora", name)
        for role, factor in zip(ROLES, factors, strict=True):
            tensors[f"{component}.{name}.{role}.weight"] = factor
    return tensors


def each(drawn):
    """List network, layer and factors."""
    return [
        (component, name, factors)
        for component, layers in drawn.items()
        for name, factors in layers.items()
    ]


def write(folder, tensors, name="style.safetensors", **metadata):
    """Write a file."""
    folder.mkdir(exist_ok=True)
    contiguous = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    save_file(contiguous, folder / name, metadata={"format": "pt", **metadata})
    return folder / name
