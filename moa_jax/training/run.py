"""A whole training run: build the networks, step through the data, write what was learnt.

`train.py` is the command line around it; a notebook calls `train` itself. It can be stopped and
called again at any time, and goes on from its newest checkpoint.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from moa_jax.backbone.attention_kernels import Attend, choose_attend
from moa_jax.backbone.stable_diffusion import StableDiffusion, load_stable_diffusion
from moa_jax.cli import make_folder
from moa_jax.config import Config
from moa_jax.data.buckets import Buckets
from moa_jax.data.captions import Tokenizer
from moa_jax.data.records import open_records
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.method.identity import Identity
from moa_jax.method.model import MoA, build
from moa_jax.method.source import find_moa
from moa_jax.method.trained import fixed_additions, learning_mask
from moa_jax.method.weights import MoaCard, load_moa, read_carried, save_moa
from moa_jax.sampling.load import choose_dtype
from moa_jax.training import hosts
from moa_jax.training.checkpoint import Checkpoints
from moa_jax.training.encoding import ensure_encoded
from moa_jax.training.feed import (
    check_resolution,
    open_batches,
    open_buckets,
    upcoming_shapes,
)
from moa_jax.training.kept import check_kept
from moa_jax.training.latents import ensure_latents
from moa_jax.training.loop import check_run, fit
from moa_jax.training.mesh import check_batch, make_mesh, place_weight
from moa_jax.training.preview import open_preview
from moa_jax.training.probe import make_probes
from moa_jax.training.setup import set_up_moa
from moa_jax.training.step import stream


def train(
    config: Config, only_encode: bool = False, devices: Sequence[jax.Device] | None = None
) -> None:
    """Build, fit, export: from the newest checkpoint in `train.output`, if there is one.

    Args:
        only_encode: write `data.encoded` or `data.latents`, and stop before training.
        devices: to train on; None means all that there are.

    Raises:
        InputError: a value of the configuration, a file or the data must be changed.
        NonFiniteLoss: the loss or the gradient is not finite.
        Preempted, or KeyboardInterrupt: the run was told to stop, and has saved its last step.
    """
    # What can be checked without the networks comes first: loading them takes long.
    check_run(config)
    check_kept(config, only_encode)
    output = make_folder("train.output", config.train.output)
    mesh = make_mesh(config.mesh, devices)
    check_batch(config.train.batch_size, config.optimizer.accumulation, mesh)
    open_records(*config.data.source())  # refuses a wrong data.path
    earlier = find_moa(config.model.moa, "model.moa") if config.model.moa else None
    dtype = choose_dtype(config.model.dtype)
    attend = choose_attend(config.model.attention, mesh.devices.flat[0].platform, mesh)
    base = load_base(config, dtype, mesh, attend)
    key = stream(config.train.seed, "init")
    model, params = build(base, config.method, dtype=dtype, key=key, remat=config.model.remat)
    schedule = NoiseSchedule.from_config(base.scheduler_config)
    identity = Identity.of(base, config.model.image_encoder)
    mask = learning_mask(params, config.method)
    # Weights that an earlier run trained in the image encoder make it another one: checkpoints and
    # encoded data go by `running_on`.
    carried, running_on = {}, identity
    if earlier:
        params = load_moa(earlier, params, identity)
        carried = read_carried(earlier, mask)
        running_on = identity.carrying(carried, str(config.model.moa))
    check_resolution(config.data.resolution, base)
    buckets = open_buckets(config, base, say)
    encode_ahead(config, model, params, running_on, base.tokenizer, mesh, buckets)
    if only_encode:
        return
    batches = open_batches(config, base, mesh, buckets, say)
    announce(params, mask, mesh, dtype)
    state, frozen, train_step = set_up_moa(model, schedule, params, mask, config, mesh)
    del params

    preview = open_preview(config, base, model, output / "samples", buckets)
    probe = jax.jit(make_probes(model, schedule, config.train))
    compile_ahead(train_step, state, frozen, upcoming_shapes(config, base, mesh, batches))
    with Checkpoints(output / "checkpoints", config, running_on) as checkpoints:
        state = fit(train_step, state, frozen, batches, checkpoints, mesh, config, preview, probe)
    batches.close()
    # All hosts have to gather; one of them writes.
    averaged = hosts.gathered(state.averaged)
    carried |= hosts.gathered(fixed_additions(frozen))
    if hosts.first():
        save_moa(output, averaged, MoaCard(config, identity, int(state.step)), carried)
    print(f"wrote {output / 'moa.safetensors'} after step {int(state.step)}")


def encode_ahead(
    config: Config,
    model: MoA,
    params: Any,
    identity: Identity,
    tokenizer: Tokenizer,
    mesh: Mesh,
    buckets: Buckets | None,
) -> None:
    """Write the folder that keeps encodings, if one is named and is not there yet."""
    if config.data.encoded:
        ensure_encoded(config, model, params, identity, tokenizer, mesh, buckets)
    if config.data.latents:
        ensure_latents(config, model, params, identity, mesh, buckets)


def load_base(config: Config, dtype: Any, mesh: Mesh, attend: Attend) -> StableDiffusion:
    """Load the pretrained networks, each weight to its place on the mesh."""
    print(f"loading {config.model.base}", flush=True)
    return load_stable_diffusion(
        config.model.base,
        dtype=dtype,
        variant=config.model.variant,
        image_encoder=config.model.image_encoder,
        place=partial(place_weight, mesh, dtype),
        attend=attend,
        tokenizer=config.model.tokenizer,
        prediction_type=config.model.prediction_type,
    )


def compile_ahead(train_step: Any, state: Any, frozen: Any, batches: Sequence[Any]) -> None:
    """Compile the step for the shapes of batches to come, one after the other.

    jax keeps the programs for the batches themselves.
    """
    for batch in batches:
        began = time.perf_counter()
        train_step.lower(state, frozen, batch).compile()
        rows, columns = batch["masks"].shape[-2:]
        say(f"compiled for {columns}x{rows} pixels in {time.perf_counter() - began:.0f} s")


def say(words: str) -> None:
    """Print at once."""
    print(words, flush=True)


def announce(params: Any, mask: Any, mesh: Mesh, dtype: Any) -> None:
    """Print how many parameters are trained, and on which devices."""
    sizes = jax.tree.map(lambda leaf: leaf.size, params)
    trained = sum(jax.tree.leaves(jax.tree.map(lambda size, on: size * on, sizes, mask)))
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    if jax.process_count() > 1:
        print(f"{jax.process_count()} hosts of {jax.local_device_count()} devices", flush=True)
    print(
        f"training {trained / 1e6:.2f} M of {sum(jax.tree.leaves(sizes)) / 1e6:.2f} M parameters "
        f"in {dtype.name} on {mesh.devices.flat[0].platform} devices: {axes}",
        flush=True,
    )
