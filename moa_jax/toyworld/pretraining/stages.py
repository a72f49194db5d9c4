"""The stages of the toy world's pretraining, in order; each uses what earlier ones have left."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moa_jax.backbone.folder import read_config, write_config
from moa_jax.backbone.stable_diffusion import Component, StableDiffusion, save_stable_diffusion
from moa_jax.backbone.tokenizer import WORDS, load_tokenizer, write_tokenizer
from moa_jax.cli import make_folder
from moa_jax.data.captions import encode_caption
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.errors import InputError
from moa_jax.toyworld.pretraining.architecture import (
    TOY_SCHEDULER,
    add_vocabulary,
    first_params,
    make_module,
    toy_networks,
)
from moa_jax.toyworld.pretraining.autoencoder import (
    latents_scale,
    vae_batches,
    vae_objective,
    vae_params,
    vae_preview,
)
from moa_jax.toyworld.pretraining.contrast import (
    CLIP_ARRAYS,
    Towers,
    clip_objective,
    clip_params,
    clip_preview,
)
from moa_jax.toyworld.pretraining.looks import (
    LOOKS_ARRAYS,
    looks_objective,
    looks_params,
    looks_preview,
)
from moa_jax.toyworld.pretraining.prior import unet_objective, unet_preview, write_latents
from moa_jax.toyworld.pretraining.recipe import Recipe
from moa_jax.toyworld.pretraining.stage import Rows, Stage, load_network
from moa_jax.toyworld.readers.reading import Readers
from moa_jax.toyworld.readers.reading import initial_params as reader_params
from moa_jax.toyworld.readers.training import reader_objective, reader_preview
from moa_jax.toyworld.world.arrays import CAPTIONS, of_groups, of_scenes, open_scenes, write_scenes
from moa_jax.toyworld.world.labels import SHAPES
from moa_jax.toyworld.world.scenes import GROUP
from moa_jax.training.loop import Batches
from moa_jax.training.mesh import make_mesh
from moa_jax.training.step import stream

TOWERS = ("text_encoder", "image_encoder")
LEFT_BY = {"text_encoder": "clip", "image_encoder": "looks"}  # stage that trains a network last
MEASURED = 2_048  # pictures that the latents' scale is measured on
SHOWN = 64  # held-out pictures that the autoencoder is measured on


class Pretraining:
    """The stages, with everything that they share."""

    def __init__(
        self, output: Path, recipe: Recipe, devices: Sequence[jax.Device] | None = None
    ) -> None:
        """Prepare `output`, and write the tokenizer there."""
        self.output, self.recipe = make_folder("OUT", output), recipe
        write_tokenizer(self.output / "tokenizer", WORDS, recipe.networks.caption_length)
        self.tokenizer = load_tokenizer(self.output / "tokenizer")
        self.configs = add_vocabulary(toy_networks(recipe.networks), self.tokenizer)
        self.empty = encode_caption(self.tokenizer, "").input_ids
        self.mesh = make_mesh(recipe.mesh, devices)

    def scenes(self) -> None:
        """Render the scenes to train on, and those that are held out."""
        recipe, size = self.recipe.scenes, self.recipe.networks.size
        for name, count, seed in (
            ("scenes", recipe.count, recipe.seed),
            ("held_out", recipe.held_out, recipe.held_out_seed),
        ):
            write_scenes(self.output / name, count, seed, size, self.tokenizer, recipe.workers)

    def vae(self) -> None:
        """Train the autoencoder."""
        config, recipe = self.configs["vae"], self.recipe.vae
        stage = Stage(self.output / "vae", recipe, self.mesh, config, {})
        if stage.done:
            return
        # Previews and the latents' scale are computed in float32.
        module = make_module("vae", config)
        learning = make_module("vae", config, jnp.dtype(recipe.dtype))
        arrays = self._open("scenes")
        held_out = np.asarray(self._open("held_out")["pictures"][:SHOWN])
        trained = stage.train(
            vae_objective(learning, recipe),
            {"vae": vae_params(module, np.random.default_rng(recipe.seed))},
            self._pictures(),
            vae_preview(module, held_out, stage.folder / "samples"),
        )
        scale = latents_scale(module, trained["vae"], np.asarray(arrays["pictures"][:MEASURED]))
        stage.finish({"vae": (trained["vae"], {**config, "scaling_factor": scale})})

    def clip(self) -> None:
        """Train the text tower and the vision tower."""
        configs, recipe = {name: self.configs[name] for name in TOWERS}, self.recipe.clip
        stage = Stage(self.output / "clip", recipe, self.mesh, configs, {})
        if stage.done:
            return
        text, vision = (make_module(n, c, jnp.dtype(recipe.dtype)) for n, c in configs.items())
        towers = Towers(vision, text, self.tokenizer.eos_token_id)
        trained = stage.train(
            clip_objective(towers, recipe),
            clip_params(towers, np.random.default_rng(recipe.seed)),
            self._groups(CLIP_ARRAYS),
            clip_preview(towers, self._open("held_out")),
        )
        stage.finish({name: (trained[name], config) for name, config in configs.items()})

    def looks(self) -> None:
        """Train the vision tower further, alone."""
        recipe = self.recipe.looks
        name, tower = "image_encoder", load_network(self.output / "clip", "image_encoder")
        stage = Stage(self.output / "looks", recipe, self.mesh, tower.fingerprint, {})
        if stage.done:
            return
        trained = stage.train(
            looks_objective(make_module(name, tower.config, jnp.dtype(recipe.dtype)), recipe),
            looks_params(tower.params, tower.module.config.projection_dim),
            self._groups(LOOKS_ARRAYS),
            looks_preview(tower.module, self._open("held_out")),
        )
        stage.finish({name: (trained[name], tower.config)})

    def latents(self) -> None:
        """Encode the pictures that the prior is trained on."""
        write_latents(self.output / "scenes", self._load("vae"), self.mesh)

    def unet(self) -> None:
        """Train the prior."""
        config, recipe = self.configs["unet"], self.recipe.unet
        module = make_module("unet", config, jnp.dtype(recipe.dtype))
        first = first_params(module, np.random.default_rng(recipe.seed))
        base = self._base(Component(module, first, config, fingerprint=""))
        frozen = {"vae": base.vae, "text_encoder": base.text_encoder}
        stage = Stage(self.output / "unet", recipe, self.mesh, config, frozen)
        if stage.done:
            return
        self.latents()
        held_out = self._open("held_out")
        # The scenes of a group resemble each other: one of each is shown.
        shown = (np.asarray(held_out[name][::GROUP]) for name in ("input_ids", "pictures"))
        schedule = NoiseSchedule.from_config(base.scheduler_config)
        trained = stage.train(
            unet_objective(base, schedule, recipe, self.empty),
            {"unet": first},
            self._scenes("latents", *CAPTIONS),
            unet_preview(base, recipe, *shown, self.empty, stage.folder / "samples"),
        )
        stage.finish({"unet": (trained["unet"], config)})

    def model(self) -> None:
        """Write all networks as one folder, in half precision."""
        sd = self._base(self._load("unet", dtype=jnp.float16), dtype=jnp.float16)
        folder, unfinished = self.output / "model", self.output / "model.unfinished"
        for old in (folder, unfinished):
            shutil.rmtree(old, ignore_errors=True)
        save_stable_diffusion(unfinished, sd)
        # Left as it is, transformers would compute in half precision, which diffusers does not.
        for name in TOWERS:
            config = {**read_config(unfinished / name), "dtype": "float32"}
            write_config(unfinished / name, config)
        unfinished.rename(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"wrote {folder}, {size / 1e6:.1f} MB")

    def readers(self) -> None:
        """Train the judges of the evaluation, on renders alone."""
        recipe, scenes = self.recipe.readers, self.recipe.scenes
        file = self.output / "readers.safetensors"
        if file.is_file():
            return
        stage = Stage(self.output / "readers", recipe, self.mesh, None, {})
        trained = stage.train(
            reader_objective,
            reader_params(stream(recipe.seed, "init")),
            self._scenes("pictures", "masks", *SHAPES),
            reader_preview(self._open("held_out"), scenes.held_out_seed),
        )
        Readers(trained).save(file)
        print(f"wrote {file}")

    def _open(self, name: str) -> Mapping[str, np.ndarray]:
        return open_scenes(self.output / name)

    def _scenes(self, *names: str) -> Rows:
        """Give scenes to train on, one by one."""
        arrays = self._open("scenes")
        return Rows({name: arrays[name] for name in names}, of_scenes, len(arrays["pictures"]))

    def _pictures(self) -> Rows | Batches:
        """Give the autoencoder crops and then pictures to train on, or pictures alone."""
        recipe = self.recipe.vae
        if not recipe.crop_steps:
            return self._scenes("pictures", "masks")
        if recipe.people_weight != 1:  # crops come without masks
            raise InputError(
                f"vae.people_weight={recipe.people_weight} weighs whole pictures: set "
                "vae.crop_steps=0"
            )
        return vae_batches(self._open("scenes"), recipe)

    def _groups(self, names: Sequence[str]) -> Rows:
        """Give entire groups of scenes to train on."""
        arrays = self._open("scenes")
        return Rows({name: arrays[name] for name in names}, of_groups, len(arrays["portraits"]))

    def _load(self, name: str, dtype: Any = jnp.float32) -> Component:
        return load_network(self.output / LEFT_BY.get(name, name), name, dtype)

    def _base(self, unet: Component, dtype: Any = jnp.float32) -> StableDiffusion:
        """Put the finished networks around a U-Net."""
        return StableDiffusion(
            unet=unet,
            vae=self._load("vae", dtype),
            **{name: self._load(name, dtype) for name in TOWERS},
            tokenizer=self.tokenizer,
            scheduler_config=TOY_SCHEDULER,
            path=self.output,
            name=str(self.output),
        )


STAGES: dict[str, Callable[[Pretraining], None]] = {
    "scenes": Pretraining.scenes,
    "vae": Pretraining.vae,
    "clip": Pretraining.clip,
    "looks": Pretraining.looks,
    "latents": Pretraining.latents,
    "unet": Pretraining.unet,
    "model": Pretraining.model,
    "readers": Pretraining.readers,
}


def pretrain(
    output: Path,
    recipe: Recipe,
    stages: Sequence[str] = tuple(STAGES),
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Run some stages.

    Args:
        devices: devices to train on; None means all there are.

    Raises:
        InputError: there is no such stage, or a stage that it needs is not done.
    """
    if unknown := [name for name in stages if name not in STAGES]:
        raise InputError(f"--stages: unknown {', '.join(unknown)}; there are {', '.join(STAGES)}")
    pretraining = Pretraining(output, recipe, devices)
    for name in stages:
        print(f"stage {name}", flush=True)
        STAGES[name](pretraining)
