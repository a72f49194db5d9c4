"""The project's programs, made from configuration files alone: the training step and the drawing.

They are built from the functions that train.py and the pipeline run, with shapes in place of
arrays. No weight is read and nothing is computed. What a chip can do is left to `plan`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from moa_jax.backbone.attention_kernels import choose_attend
from moa_jax.backbone.quantization import choose_place
from moa_jax.backbone.stable_diffusion import describe_stable_diffusion
from moa_jax.config import Config, MethodConfig
from moa_jax.diffusion import NoiseSchedule
from moa_jax.method.model import build
from moa_jax.method.trained import learning_mask, map_paths
from moa_jax.sampling.load import stored
from moa_jax.sampling.program import Networks, condition, decode, predict
from moa_jax.sampling.request import Request
from moa_jax.sampling.settings import Settings
from moa_jax.sampling.start import latent_shape
from moa_jax.training.feed import batch_shapes, batch_sizes
from moa_jax.training.mesh import check_batch, place_batch_shapes, replicated
from moa_jax.training.setup import set_up_moa

Shapes = Any  # a tree of jax.ShapeDtypeStruct


class Program(NamedTuple):
    """A program to compile.

    Attributes:
        lower: lowers it, as `jax.jit(...).lower(...)` does; this is the slow part.
        parts: its arguments by what they are: trees of shapes, each with its sharding.
        runs: how often it runs.
    """

    lower: Callable[[], Any]
    parts: dict[str, Shapes]
    runs: int = 1


def training_program(config: Config, mesh: Mesh) -> Program:
    """Give the training step of a configuration, as train.py runs it for its largest pictures.

    Args:
        mesh: may consist of devices that are not here.

    Raises:
        InputError: train.py would refuse the configuration before it reads weights and pictures.
    """
    check_batch(config.train.batch_size, config.optimizer.accumulation, mesh)
    dtype = jnp.dtype(config.model.dtype or jnp.bfloat16)
    attend = choose_attend(config.model.attention, mesh.devices.flat[0].platform, mesh)
    named = config.model
    base = describe_stable_diffusion(
        named.base, dtype, named.image_encoder, attend, named.tokenizer, named.prediction_type
    )
    remat = config.model.remat
    model, params = build(base, config.method, dtype=dtype, key=None, remat=remat)
    mask = learning_mask(params, config.method)
    schedule = NoiseSchedule.from_config(base.scheduler_config)
    state, frozen, step = set_up_moa(model, schedule, params, mask, config, mesh)
    # With buckets, the size of most pixels takes most of everything.
    size = batch_sizes(config, base)[0]
    batch = place_batch_shapes(mesh, batch_shapes(config, base, size))
    parts = {
        "frozen": frozen,
        "trained": state.trained,
        "optimizer": state.optimizer,
        "average": state.ema,
        "batch": batch,
    }
    return Program(partial(step.lower, state, frozen, batch), parts)


@dataclass(frozen=True)
class Drawing:
    """What `sample.py` would draw, as far as a plan needs to know it.

    Attributes:
        base: folder, hub id or single file of the checkpoint; its weights are not read.
        method: configuration of the MoA weights; None means plain Stable Diffusion.
        image_encoder: see `load_stable_diffusion`.
        dtype: of the computation and of the weights.
        attention: see `choose_attend`.
        num_images: number of pictures drawn at once.
        height: in pixels; None means the checkpoint's own.
        width: likewise.
        tokenizer: see `load_stable_diffusion`.
        prediction_type: likewise.
        quantization: see `load`.
    """

    base: str
    settings: Settings
    method: MethodConfig | None = None
    image_encoder: str | None = None
    dtype: str = "bfloat16"
    attention: str = "auto"
    num_images: int = 1
    height: int | None = None
    width: int | None = None
    tokenizer: str | None = None
    prediction_type: str | None = None
    quantization: str | None = None


def sampling_programs(drawing: Drawing, mesh: Mesh) -> tuple[Program, ...]:
    """Give the programs that draw a batch of pictures on one device, in the pipeline's order.

    Each program counts all weights as its own, because the device holds all of them. The sampler's
    arithmetic, a few sums of latents in each step, is left out.

    Args:
        mesh: of one device.

    Returns:
        Three programs: one encodes the request, one runs in every step, one decodes the latents.

    Raises:
        InputError: a file is missing, or a side, the sampler or the quantization is not possible.
    """
    attend = choose_attend(drawing.attention, mesh.devices.flat[0].platform)
    dtype = jnp.dtype(drawing.dtype)
    options = (drawing.image_encoder, attend, drawing.tokenizer, drawing.prediction_type)
    hold = choose_place(drawing.quantization, dtype)
    base = describe_stable_diffusion(drawing.base, dtype, *options, hold)
    method, settings, num_images = drawing.method, drawing.settings, drawing.num_images
    if method is None:
        model, subjects, image_size = None, 1, 1
        names = ("unet", "text_encoder", "vae")
        params = {name: getattr(base, name).params for name in names}
    else:
        model, params = build(base, method, dtype=dtype, key=None)
        subjects, image_size = method.max_subjects, base.image_encoder.module.config.image_size
        params = map_paths(partial(stored, dtype), params)
    length = base.text_encoder.module.config.max_position_embeddings
    latents = latent_shape(base, drawing.height, drawing.width, num_images)
    shape = jax.ShapeDtypeStruct
    ids = shape((num_images, length), jnp.int32)
    pictures = shape((num_images, subjects, image_size, image_size, 3), jnp.uint8)
    request = Request(ids, ids, pictures, shape((num_images, subjects), jnp.int32))
    settings = settings.resolved(base.scheduler_config)
    sampler = settings.make_sampler(NoiseSchedule.from_config(base.scheduler_config))
    steering = settings.steering(model.blocks if model else ())
    networks, place = Networks(base, model), replicated(mesh)
    encode = partial(condition, networks, guided=steering.guided)
    placed = partial(jax.tree.map, partial(_place, place))
    params, request = placed(params), placed(request)
    conditions = placed(jax.eval_shape(encode, params, request))
    noise, times = placed((shape(latents, jnp.float32), shape((num_images,), jnp.float32)))

    def program(function: Callable[..., Any], *arguments: Any, runs: int = 1) -> Program:
        # Weights that a program does not use take the device's memory all the same.
        compiled = jax.jit(function, out_shardings=place, keep_unused=True)
        lower = partial(compiled.lower, params, *arguments)
        # What steers a step is a few numbers without a sharding; they are left out.
        shapes = [each for each in jax.tree.leaves(arguments) if hasattr(each, "sharding")]
        return Program(lower, {"weights": params, "request": shapes}, runs)

    step = partial(predict, networks)
    # Step 0 stands for all steps: what differs between them is an argument of one program.
    return (
        program(encode, request),
        program(step, conditions, steering.at(0), noise, times, runs=len(sampler.timesteps)),
        program(partial(decode, base), noise),
    )


def shard_bytes(tree: Any) -> int:
    """Sum the bytes that one device holds of a tree of shapes with their shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _place(sharding: NamedSharding, leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
