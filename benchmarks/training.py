"""Time a training step: pictures a second, and the share of the machine's peak that it reaches.

    python -m benchmarks.training --batch 4
    python -m benchmarks.training --size toy --pixels 64 --batch 8

The pictures are random, and every subject slot is full: what a step costs does not depend on what
it sees. The peak is measured in turn with the step, as a product of large matrices; the share is
the step's least FLOPs over that peak ("MFU").
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.models import opened
from benchmarks.report import Report, Timing, add_common_options
from benchmarks.work import Work, done, needed
from moa_jax.backbone.attention_kernels import choose_attend, xla
from moa_jax.backbone.stable_diffusion import describe_stable_diffusion, load_stable_diffusion
from moa_jax.cli import run
from moa_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from moa_jax.diffusion import NoiseSchedule
from moa_jax.errors import InputError
from moa_jax.method.model import build
from moa_jax.method.trained import learning_mask
from moa_jax.sampling.load import choose_dtype
from moa_jax.training.mesh import make_mesh, place_batch
from moa_jax.training.setup import set_up_moa


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--size", default="sd15", help="sd15, tiny, toy, or a checkpoint's folder")
    parser.add_argument("--pixels", type=int, default=512, help="of a side")
    parser.add_argument("--batch", type=int, default=4, help="pictures a step")
    parser.add_argument("--dtype", help="left out: bfloat16 on a GPU or TPU, float32 on a CPU")
    parser.add_argument("--attention", default="auto", help="see moa_jax's model.attention")
    parser.add_argument("--remat", action="store_true", help="recompute blocks to save memory")
    parser.add_argument("--matrix", type=int, default=8192, help="rows of the peak's matrices")
    add_common_options(parser)
    options = parser.parse_args(argv)
    return run(lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """Measure and report what the command line asks for."""
    try:
        from moa_jax.training.feed import batch_shapes
    except ModuleNotFoundError as error:
        raise InputError(f"training needs {error.name}: pip install {error.name}") from error

    report = Report("training", options)
    dtype = choose_dtype(options.dtype)
    with opened(options.size) as folder:
        config = _config(folder, options)
        mesh = make_mesh(config.mesh, jax.devices()[:1])
        attend = choose_attend(options.attention, jax.default_backend())
        base = load_stable_diffusion(folder, dtype, attend=attend)
        shapes = batch_shapes(config, base, (options.pixels, options.pixels))
        batch = place_batch(mesh, {name: _drawn(name, each) for name, each in shapes.items()})
        state, frozen, step = _set_up(base, config, mesh, dtype)
        compiled = step.lower(state, frozen, batch).compile()
        least = _least(base, config, mesh, dtype, shapes)
        states = [state]

        def train() -> None:
            new, metrics = compiled(states.pop(), frozen, batch)
            states.append(new)
            jax.block_until_ready(metrics)

        product, flops = _product(options.matrix, dtype)
        name = f"step, {options.pixels} px, batch {options.batch}"
        row = report.measure(
            name, {"ours": train, "matrix product": product}, least, done(compiled)
        )
    if row is not None:
        _add_rates(report, row, options.batch, flops)


def _add_rates(report: Report, row: dict[str, Any], batch: int, flops: float) -> None:
    """Add pictures a second, the measured peak and the share of it to the row."""
    times = {name: Timing(tuple(each["seconds"])) for name, each in row["times"].items()}
    step, peak = times["ours"].median, flops / times["matrix product"].median
    row["images_per_second"] = batch / step
    row["peak_flops"] = peak
    row["mfu"] = row["needs"]["flops"] / step / peak
    report.note(
        f"{row['job']}: {row['images_per_second']:.3g} pictures/s, {row['mfu']:.1%} of the "
        f"measured {peak / 1e12:.3g} TFLOP/s"
    )


def _config(folder: Path, options: argparse.Namespace) -> Config:
    return Config(
        model=ModelConfig(base=str(folder), remat=options.remat, attention=options.attention),
        data=DataConfig(path="-", resolution=options.pixels),
        train=TrainConfig(batch_size=options.batch),
    )


def _set_up(base: Any, config: Config, mesh: Any, dtype: Any) -> Any:
    """Put the training together as train.py does."""
    remat = config.model.remat
    key = jax.random.key(0)
    model, params = build(base, config.method, dtype=dtype, key=key, remat=remat)
    schedule = NoiseSchedule.from_config(base.scheduler_config)
    return set_up_moa(model, schedule, params, learning_mask(params, config.method), config, mesh)


def _least(base: Any, config: Config, mesh: Any, dtype: Any, shapes: Any) -> Work:
    """Count the products of the step as written, in the open and with nothing recomputed."""
    plain = replace(config, model=replace(config.model, remat=False))
    described = describe_stable_diffusion(base.path, dtype, attend=xla)
    model, params = build(described, plain.method, dtype=dtype, key=None)
    schedule = NoiseSchedule.from_config(base.scheduler_config)
    mask = learning_mask(params, plain.method)
    state, frozen, step = set_up_moa(model, schedule, params, mask, plain, mesh)
    return needed(step, state, frozen, dict(shapes))


def _drawn(name: str, each: Any) -> np.ndarray:
    """Fill an array of a batch; every subject is there, at the first words."""
    if name == "subject_tokens":
        return np.broadcast_to(np.arange(1, each.shape[1] + 1, dtype=each.dtype), each.shape).copy()
    if name == "input_ids":
        return np.ones(each.shape, each.dtype)
    if each.dtype == np.bool_:
        return np.ones(each.shape, each.dtype)
    return np.random.default_rng(0).integers(0, 256, each.shape).astype(each.dtype)


def _product(rows: int, dtype: Any) -> tuple[Any, float]:
    """Give a product of square matrices, and its FLOPs."""
    left, right = (
        jax.random.normal(key, (rows, rows), dtype) for key in jax.random.split(jax.random.key(0))
    )
    multiply = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(multiply(left, right)), 2.0 * rows**3


if __name__ == "__main__":
    sys.exit(main())
