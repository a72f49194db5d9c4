"""Train MoA on captioned pictures with masks.

    python train.py configs/NAME.py [section.key=value ...]

It builds the networks, then steps through the data. It can be stopped and resumed at any time.
README.md says what it writes to `train.output`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import moa_jax  # before jax: it settles what jax reads when it is imported

# isort: split
import jax
from jax.sharding import Mesh
from rich.console import Console

from moa_jax.backbone.attention_kernels import Attend, choose_attend
from moa_jax.backbone.stable_diffusion import StableDiffusion, load_stable_diffusion
from moa_jax.cli import make_folder, run
from moa_jax.config import Config, flatten, load_config, override
from moa_jax.data.records import open_records
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.method.identity import Identity
from moa_jax.method.model import build
from moa_jax.method.trained import fixed_additions, learning_mask
from moa_jax.method.weights import MoaCard, load_moa, read_carried, save_moa
from moa_jax.runtime import keep_programs
from moa_jax.sampling.load import choose_dtype
from moa_jax.training import hosts
from moa_jax.training.checkpoint import Checkpoints
from moa_jax.training.encoding import check_encoded, ensure_encoded
from moa_jax.training.feed import check_resolution, open_batches
from moa_jax.training.loop import check_run, fit
from moa_jax.training.mesh import check_batch, make_mesh, place_weight
from moa_jax.training.preview import open_preview
from moa_jax.training.probe import make_probes
from moa_jax.training.setup import set_up_moa
from moa_jax.training.step import stream

EXAMPLES = """\
examples:
  python train.py configs/toy.py
  python train.py configs/sd15_imagefolder.py data.path=my_pictures train.output=runs/mine
  python train.py configs/sd15_ffhq.py mesh.preset=fsdp optimizer.accumulation=2 --print-config
  python train.py configs/sd15_ffhq.py --plan v5e:2x4 --plan-presets all

On many hosts, start the same command on each, with one train.output that all of them see.

A run resumes from the newest checkpoint in train.output. SIGTERM and Ctrl-C save the step in flight
before they end it; Ctrl-C again stops at once. Exit codes: 0 trained; 1 the loss is not finite;
2 something in the command, the files or the data must be changed; 75 (EX_TEMPFAIL) preempted, or
another host is gone: start it (all) again to go on; 130 stopped by Ctrl-C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    parser = argparse.ArgumentParser(
        description="Train MoA on captioned pictures with masks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a file in configs/ that defines get_config()")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--print-config", action="store_true", help="print every value and stop")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="fail without other hosts to join; unasked, they are joined where there are any",
    )
    parser.add_argument(
        "--plan",
        metavar="TOPOLOGY",
        help="compile the step for TPUs that are not here, e.g. v5e:4x4, say what it takes, and "
        "stop; reads no weights and no pictures",
    )
    parser.add_argument(
        "--plan-presets", default="", metavar="dp,fsdp", help="plan these mesh presets, or all"
    )
    parser.add_argument("--plan-json", type=Path, metavar="FILE", help="write the plan there too")
    parser.add_argument(
        "--encode",
        action="store_true",
        help="encode the pictures into data.encoded and stop; many hosts then find it there",
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="compile anew; otherwise compiled programs are kept in JAX_COMPILATION_CACHE_DIR, or "
        "in ~/.cache/moa_jax",
    )
    version = f"moa_jax {moa_jax.__version__}"
    parser.add_argument("--version", action="version", version=version)
    options = parser.parse_intermixed_args(arguments)

    def work() -> None:
        config = override(load_config(options.config), options.overrides)
        if options.print_config:
            return print_config(config)
        if options.plan:
            return plan(config, options.plan, options.plan_presets, options.plan_json)
        keep_programs(not options.no_cache)
        hosts.join(options.distributed)
        with hosts.watching():
            train(config, options.encode)

    stopped = "stopped: the same command resumes from the newest checkpoint"
    return hosts.leave(run(work, stopped))


def train(
    config: Config, only_encode: bool = False, devices: Sequence[jax.Device] | None = None
) -> None:
    """Build, fit, export.

    Args:
        only_encode: write `data.encoded`, and stop before training.
        devices: to train on; None means all that there are.
    """
    # What can be checked without the networks comes first: loading them takes long.
    check_run(config)
    check_encoded(config, only_encode)
    output = make_folder("train.output", config.train.output)
    mesh = make_mesh(config.mesh, devices)
    check_batch(config.train.batch_size, config.optimizer.accumulation, mesh)
    open_records(*config.data.source())  # refuses a wrong data.path
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
    if config.model.moa:
        params = load_moa(config.model.moa, params, identity)
        carried = read_carried(config.model.moa, mask)
        running_on = identity.carrying(carried, config.model.moa)
    check_resolution(config.data.resolution, base)
    if config.data.encoded:
        ensure_encoded(config, model, params, running_on, base.tokenizer, mesh)
    if only_encode:
        return
    if config.data.resident:
        print("reading the encoded data into the devices' memory", flush=True)
    batches = open_batches(config, base, mesh)

    announce(params, mask, mesh, dtype)
    state, frozen, train_step = set_up_moa(model, schedule, params, mask, config, mesh)
    del params

    preview = open_preview(config, base, model, output / "samples")
    probe = jax.jit(make_probes(model, schedule, config.train))
    with Checkpoints(output / "checkpoints", config, running_on) as checkpoints:
        state = fit(train_step, state, frozen, batches, checkpoints, mesh, config, preview, probe)
    batches.close()
    # All hosts have to gather; one of them writes.
    averaged = hosts.gathered(state.averaged)
    carried |= hosts.gathered(fixed_additions(frozen))
    if hosts.first():
        save_moa(output, averaged, MoaCard(config, identity, int(state.step)), carried)
    print(f"wrote {output / 'moa.safetensors'} after step {int(state.step)}")


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
    )


def plan(config: Config, topology: str, presets: str, file: Path | None) -> None:
    """Print what a training step takes on a TPU topology."""
    from moa_jax.planning.plan import check_presets, plan_training  # nothing but --plan needs it
    from moa_jax.planning.report import as_json, rendered

    jax.config.update("jax_platforms", "cpu")  # nothing runs: a device here is not to be claimed
    check_run(config)
    chosen, console = check_presets(presets), Console()
    with console.status("") as status:
        plans = plan_training(
            config, topology, chosen, lambda what: status.update(f"compiling: {what}")
        )
    if file:
        file.write_text(json.dumps([as_json(each) for each in plans], indent=2) + "\n")
    console.print(f"one training step on {topology}, of {config.train.steps}", highlight=False)
    console.print(rendered(plans, config.model.remat), highlight=False)


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


def print_config(config: Config) -> None:
    """Print every value as an override would set it."""
    values = flatten(config)
    width = max(map(len, values))
    shown = {name: "none" if value is None else value for name, value in values.items()}
    print("\n".join(f"{name:{width}} = {value}" for name, value in shown.items()))


if __name__ == "__main__":
    sys.exit(main())
