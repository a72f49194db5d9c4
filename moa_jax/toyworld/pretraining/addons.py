"""Train two additions to the toy world's Stable Diffusion: a style's LoRA and a ControlNet.

    python -m moa_jax.toyworld.pretraining.addons [OUT] [section.key=value ...] [--only style]

Writes OUT/style.safetensors in kohya's layout and OUT/outline/ in diffusers', in half precision. A
training resumes where it stopped, and is skipped when its file is there. The base model is frozen.
Every default is in `moa_jax.toyworld.pretraining.recipe`.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, UInt8
from safetensors.numpy import save_file

from moa_jax.backbone.controlnet import KIND, ControlNet, ControlNetConfig
from moa_jax.backbone.lora import Lora, merge_lora
from moa_jax.backbone.lora_file import LowRank
from moa_jax.backbone.stable_diffusion import StableDiffusion, load_stable_diffusion
from moa_jax.backbone.unet import UNet
from moa_jax.backbone.weights import save_params
from moa_jax.cli import make_folder, run
from moa_jax.config import override
from moa_jax.data.captions import encode_caption
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.runtime import keep_programs
from moa_jax.toyworld import WEIGHTS
from moa_jax.toyworld.pretraining.architecture import first_params
from moa_jax.toyworld.pretraining.denoising import Predict, denoising_objective, encode_pictures
from moa_jax.toyworld.pretraining.recipe import AddonsRecipe, OutlineRecipe, StyleRecipe
from moa_jax.toyworld.pretraining.stage import Rows, Stage
from moa_jax.toyworld.world.arrays import of_scenes, open_scenes, write_scenes
from moa_jax.training.mesh import make_mesh
from moa_jax.training.step import Batch

STYLE, OUTLINE = WEIGHTS / "style.safetensors", WEIGHTS / "outline"  # as committed
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Source: ITU-R BT.601

Factors = dict[str, dict[str, Any]]  # by kohya's name of the layer: "down" and "up"


def cyanotype(
    pictures: UInt8[np.ndarray, "*B H W 3"], recipe: StyleRecipe
) -> UInt8[np.ndarray, "*B H W 3"]:
    """Print pictures in one ink: only their brightness remains, between ink and paper."""
    ink, paper = np.float32(recipe.ink), np.float32(recipe.paper)
    bright = (pictures @ LUMA / 255 - recipe.black) / (recipe.white - recipe.black)
    share = np.clip(bright, 0, 1)[..., None]
    return np.round(255 * (ink + share * (paper - ink))).astype(np.uint8)


def outlines(masks: Bool[Array, "*B K H W"]) -> UInt8[Array, "*B H W 3"]:
    """Draw each person's outermost pixels white on black: the control picture."""
    padded = jnp.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(1, 1), (1, 1)])
    rows, columns = padded[..., 1:-1], padded[..., 1:-1, :]
    # Inner pixels have all four neighbours in the mask.
    inner = rows[..., :-2, :] & rows[..., 2:, :] & columns[..., :-2] & columns[..., 2:]
    lines = jnp.any(masks & ~inner, axis=-3).astype(jnp.uint8) * 255
    return jnp.repeat(lines[..., None], 3, axis=-1)


def first_factors(unet: Mapping[str, Any], rank: int, random: np.random.Generator) -> Factors:
    """Draw factors for every attention projection of a U-Net; they change nothing yet."""
    factors = {}
    for path, kernel in flatten_dict(unet).items():
        if path[-1] == "kernel" and path[-2] in ATTENTION:
            width, out = kernel.shape
            down = random.standard_normal((rank, width)) * width**-0.5
            name = "lora_unet_" + "_".join(path[:-1]).replace(".", "_")
            factors[name] = {"down": np.float32(down), "up": np.zeros((out, rank), np.float32)}
    return factors


def merge_factors(unet: Mapping[str, Any], factors: Factors) -> dict[str, Any]:
    """Merge factors into a U-Net as a LoRA file is merged; gradients reach the factors."""
    layers = {name: LowRank(each["down"], each["up"], None, 1.0) for name, each in factors.items()}
    return merge_lora({"unet": unet}, Lora("style", layers))["unet"]


def predict_in_style(unet: UNet) -> Predict:
    """Predict with the factors "style" merged into the U-Net."""

    def predict(params: Any, batch: Batch, *inputs: Array) -> Array:
        return unet.apply({"params": merge_factors(params["unet"], params["style"])}, *inputs)

    return predict


def predict_in_outline(unet: UNet, controlnet: ControlNet) -> Predict:
    """Predict with what the ControlNet "outline" finds in the batch's outlines."""

    def predict(params: Any, batch: Batch, *inputs: Array) -> Array:
        picture = outlines(batch["masks"]).astype(jnp.float32) / 255
        residuals = controlnet.apply({"params": params["outline"]}, *inputs, picture)
        return unet.apply({"params": params["unet"]}, *inputs, residuals)

    return predict


def save_factors(file: Path, factors: Factors) -> None:
    """Write a LoRA file with kohya's keys; alpha is the rank, so the change is up @ down."""
    tensors = {}
    for name, each in factors.items():
        tensors[f"{name}.alpha"] = np.array(len(each["down"]), np.float16)
        for role, factor in each.items():
            tensors[f"{name}.lora_{role}.weight"] = np.asarray(factor, np.float16)
    save_file(tensors, file)
    file.chmod(0o644)  # safetensors makes files that only their owner can read


def controlnet_config(unet: Mapping[str, Any], recipe: OutlineRecipe) -> dict[str, Any]:
    """Give the `config.json` of a ControlNet for a U-Net of the toy world."""
    other = ("out_channels", "up_block_types", "sample_size")  # a ControlNet has none of these
    return {
        **{key: value for key, value in unet.items() if key not in other},
        "_class_name": KIND,
        "down_block_types": list(recipe.down_blocks),
        "conditioning_embedding_out_channels": list(recipe.widths),
    }


def first_controlnet(
    module: ControlNet, unet: Mapping[str, Any], random: np.random.Generator
) -> dict[str, Any]:
    """Copy a U-Net's down half and middle; the layers into and out of the copy start at zero.

    Source: ControlNet (arXiv 2302.05543).
    """
    params, copied = flatten_dict(first_params(module, random)), flatten_dict(unet)
    for path, leaf in params.items():
        silent = path[:2] == ("controlnet_cond_embedding", "conv_out")
        silent |= path[0].startswith(("controlnet_down_blocks", "controlnet_mid_block"))
        params[path] = copied.get(path, jnp.zeros_like(leaf) if silent else leaf)
    return unflatten_dict(params)


class Addons:
    """The two trainings, with the base model and the scenes that they share."""

    def __init__(
        self, output: Path, recipe: AddonsRecipe, devices: Sequence[jax.Device] | None = None
    ) -> None:
        """Read the base model and render the scenes into `output`."""
        self.output, self.recipe = make_folder("OUT", output), recipe
        world = recipe.world
        self.base: StableDiffusion = load_stable_diffusion(world.base)
        self.mesh = make_mesh(recipe.mesh, devices)
        size = self.base.vae.config["sample_size"]
        scenes = self.output / "scenes"
        write_scenes(scenes, world.count, world.seed, size, self.base.tokenizer)
        self.scenes = open_scenes(scenes)

    def style(self) -> None:
        """Train low-rank changes of the attention on pictures in another style."""
        recipe, file = self.recipe.style, self.output / "style.safetensors"
        if file.is_file():
            return
        unet = self.base.unet
        first = first_factors(unet.params, recipe.rank, np.random.default_rng(recipe.seed))
        pictures = cyanotype(np.asarray(self.scenes["pictures"]), recipe)
        predict = predict_in_style(unet.module)
        save_factors(file, self._train("style", recipe, first, predict, pictures))

    def outline(self) -> None:
        """Train a ControlNet on the outlines of a scene's people."""
        recipe, folder = self.recipe.outline, self.output / "outline"
        if folder.is_dir():
            return
        unet = self.base.unet
        config = controlnet_config(unet.config, recipe)
        module = ControlNet(ControlNetConfig.from_dict(config))
        first = first_controlnet(module, unet.params, np.random.default_rng(recipe.seed))
        pictures = np.asarray(self.scenes["pictures"])
        predict = predict_in_outline(unet.module, module)
        trained = self._train("outline", recipe, first, predict, pictures)
        half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), trained)
        save_params(folder, half, config)

    def _train(
        self,
        name: str,
        recipe: StyleRecipe | OutlineRecipe,
        first: Any,
        predict: Predict,
        pictures: UInt8[np.ndarray, "n H W 3"],
    ) -> Any:
        """Train one network beside the frozen base model, and give its averaged weights."""
        base, tokenizer = self.base, self.base.tokenizer
        arrays = {
            "latents": np.concatenate(list(encode_pictures(base.vae, pictures, self.mesh))),
            "input_ids": self.scenes["input_ids"],
            "masks": self.scenes["masks"],
        }
        schedule = NoiseSchedule.from_config(base.scheduler_config)
        empty = encode_caption(tokenizer, "").input_ids
        text, dropout = base.text_encoder.module, recipe.condition_dropout
        frozen = {"unet": base.unet, "text_encoder": base.text_encoder}
        stage = Stage(self.output / "training" / name, recipe, self.mesh, recipe, frozen)
        return stage.train(
            denoising_objective(text, predict, schedule, dropout, empty),
            {name: first},
            Rows(arrays, of_scenes, len(pictures)),
            lambda step, params: None,  # no preview
        )[name]


TRAININGS: dict[str, Callable[[Addons], None]] = {"style": Addons.style, "outline": Addons.outline}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.toyworld.pretraining.addons",
        description="Train a style's LoRA and a ControlNet for the toy world's base model.",
    )
    parser.add_argument("output", nargs="?", default="runs/toy_addons", metavar="OUT")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--only", choices=TRAININGS, help="one of the two")
    options = parser.parse_intermixed_args(arguments)
    output, overrides = options.output, options.overrides
    if "=" in output:  # OUT was left out, and this is an override
        output, overrides = parser.get_default("output"), [output, *overrides]

    def work() -> None:
        keep_programs()
        addons = Addons(Path(output), override(AddonsRecipe(), overrides))
        for name in [options.only] if options.only else TRAININGS:
            TRAININGS[name](addons)

    return run(work, stopped="stopped: the same command resumes from the newest checkpoint")


if __name__ == "__main__":
    sys.exit(main())
