"""Our side of the benchmarks: a pipeline whose compiled programs can be run again one by one."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks.work import Work, done, needed
from moa_jax.backbone.attention import Attention
from moa_jax.backbone.attention_kernels import xla
from moa_jax.backbone.unet import UNet
from moa_jax.backbone.vae import VAE
from moa_jax.config import MethodConfig
from moa_jax.method.model import build
from moa_jax.method.router import is_router
from moa_jax.method.trained import is_added, map_paths
from moa_jax.sampling.load import Loaded, choose_dtype, load
from moa_jax.sampling.pipeline import Pipeline

PROMPT, MARKED = "a photo of a man reading", "a photo of a man <|image|> reading"
SAMPLER, GUIDANCE = "ddim", 7.5


def load_pipeline(folder: Path, dtype: str | None, attention: str, moa: bool) -> Pipeline:
    """Load a checkpoint; its mixtures, if any, start as a training does."""
    loaded = load(folder, dtype=dtype, attention=attention)
    if not moa:
        return Pipeline(*loaded)
    kind, method = choose_dtype(dtype), MethodConfig()
    model, params = build(loaded.base, method, dtype=kind, key=jax.random.key(0))

    def as_drawn(path: str, leaf: Any) -> Any:
        cast = is_added(path) and not is_router(path) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(kind) if cast else leaf

    return Pipeline(*Loaded(loaded.base, model, map_paths(as_drawn, params), 1, ()))


class Program:
    """A compiled function of a pipeline, which remembers the arguments of its last call."""

    def __init__(self, compiled: Any) -> None:
        """Stand in for a function that `jax.jit` made."""
        self._compiled = compiled
        self.calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run it."""
        self.calls += 1
        self._last = (arguments, options)
        return self._compiled(*arguments, **options)

    def again(self) -> None:
        """Run it with the same arguments, and wait for the result."""
        arguments, options = self._last
        jax.block_until_ready(self._compiled(*arguments, **options))

    def work(self) -> Work:
        """Read what it takes; jax has it compiled already."""
        arguments, options = self._last
        return done(self._compiled.lower(*arguments, **options).compile())


@dataclass(frozen=True)
class Drawing:
    """What is drawn: so many pictures of that many pixels a side, in so many steps."""

    batch: int
    pixels: int
    steps: int


class Ours:
    """A pipeline, and the programs that it ran for the last drawing."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Watch the programs of a pipeline."""
        self.pipeline = pipeline
        self.programs = {
            name: Program(value)
            for name, value in vars(pipeline).items()
            if hasattr(value, "lower") and callable(value)
        }
        for name, program in self.programs.items():
            setattr(pipeline, name, program)

    def draw(self, drawing: Drawing) -> None:
        """Draw from text to pictures."""
        moa = self.pipeline.model is not None
        picture = Image.fromarray(np.full((64, 64, 3), 128, np.uint8))
        self.pipeline(
            MARKED if moa else PROMPT,
            [picture] if moa else [],
            num_images=drawing.batch,
            height=drawing.pixels,
            width=drawing.pixels,
            num_inference_steps=drawing.steps,
            sampler=SAMPLER,
            guidance_scale=GUIDANCE,
        )

    def start(self, drawing: Drawing) -> None:
        """Draw once, which compiles every program and leaves each with its arguments."""
        for program in self.programs.values():
            program.calls = 0
        self.draw(drawing)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.pipeline.params))

    @property
    def step(self) -> Program:
        """What runs at every step: the U-Net, of twice the batch with guidance."""
        return self.programs["_predict"]

    @property
    def decode(self) -> Program:
        """The VAE's decoder."""
        return self.programs["_decode"]

    def whole(self) -> Work:
        """Read what all programs of the last drawing take together."""
        ran = [program for program in self.programs.values() if program.calls]
        first, *others = (program.work() * program.calls for program in ran)
        return sum(others, first)


def needs(pipeline: Pipeline, drawing: Drawing) -> dict[str, Work]:
    """Count the least that each part of a drawing takes in plain Stable Diffusion.

    Returns:
        Of "unet", one step under guidance; of "vae", the decoding; of "call", everything.
    """
    base, shape = pipeline.base, jax.ShapeDtypeStruct
    rows, side = 2 * drawing.batch, drawing.pixels // pipeline.downscale
    text, kind = base.text_encoder.module, pipeline.dtype
    length, width = text.config.max_position_embeddings, text.config.hidden_size
    # With this attention all products stand in the open, as many as any other one computes.
    unet = UNet(base.unet.module.config, partial(Attention, attend=xla), kind)
    vae = VAE(base.vae.module.config, kind, xla)
    latents = shape((rows, side, side, vae.config.latent_channels), jnp.float32)
    times, context = shape((rows,), jnp.float32), shape((rows, length, width), kind)
    ids = shape((rows, length), jnp.int32)
    drawn = shape((drawing.batch, *latents.shape[1:]), jnp.float32)

    def decode(params: Any, latents: Any) -> Any:
        pixels = vae.apply({"params": params}, latents, method="decode")
        return (pixels * 255).astype(jnp.uint8)

    def apply(module: Any) -> Any:
        return lambda params, *inputs: module.apply({"params": params}, *inputs)

    step = needed(apply(unet), base.unet.params, latents, times, context)
    decoding = needed(decode, base.vae.params, drawn)
    encoding = needed(apply(text), base.text_encoder.params, ids)
    return {"unet": step, "vae": decoding, "call": step * drawing.steps + decoding + encoding}
