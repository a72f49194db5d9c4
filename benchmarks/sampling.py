"""Time drawing against diffusers: the U-Net's step, the VAE's decoder, and the whole call.

    python -m benchmarks.sampling                                    (Stable Diffusion 1.5's size)
    python -m benchmarks.sampling --size toy --pixels 64 --no-peers  (seconds)

Both sides draw with the same weights, from the same folder, in turn, in one process. The U-Net runs
under guidance, so on twice the batch. Rows of MoA compare with our plain Stable Diffusion. A memory
is weights and temporaries of the program, by the compiler; and torch's peak on a GPU.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import opened
from benchmarks.ours import Drawing, Ours, load_pipeline, needs
from benchmarks.peers import Diffusers, missing
from benchmarks.report import Report, add_common_options
from moa_jax.cli import run

JOBS = ("unet", "vae", "call")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--size", default="sd15", help="sd15, tiny, toy, or a checkpoint's folder")
    parser.add_argument("--pixels", type=int, nargs="+", default=[256, 512], help="of a side")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2], help="pictures at once")
    parser.add_argument("--steps", type=int, default=3, help="of the whole call")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--dtype", help="left out: bfloat16 on a GPU or TPU, float32 on a CPU")
    parser.add_argument("--attention", default="auto", help="see moa_jax's model.attention")
    parser.add_argument("--no-moa", action="store_true", help="leave MoA out")
    parser.add_argument("--no-peers", action="store_true", help="leave diffusers out")
    add_common_options(parser)
    options = parser.parse_args(argv)
    return run(lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """Measure and report what the command line asks for."""
    report = Report("sampling", options)
    with opened(options.size, image_encoder=not options.no_moa) as folder:
        plain = Ours(load_pipeline(folder, options.dtype, options.attention, moa=False))
        moa = None
        if not options.no_moa:
            moa = Ours(load_pipeline(folder, options.dtype, options.attention, moa=True))
        peer = _peer(options, folder, plain, report)
        for pixels in options.pixels:
            for batch in options.batch:
                _measure(report, Drawing(batch, pixels, options.steps), plain, moa, peer, options)


def _peer(
    options: argparse.Namespace, folder: Path, plain: Ours, report: Report
) -> Diffusers | None:
    absent = "no peer: --no-peers" if options.no_peers else missing()
    if absent:
        report.note(absent)
        return None
    on_gpu = report.content["machine"]["platform"] == "gpu"
    return Diffusers(folder, plain.pipeline.dtype.name, compiled=on_gpu)


def _measure(
    report: Report,
    drawing: Drawing,
    plain: Ours,
    moa: Ours | None,
    peer: Diffusers | None,
    options: argparse.Namespace,
) -> None:
    """Measure every job of one drawing."""
    least = needs(plain.pipeline, drawing)
    for side in (plain, moa):
        if side is None:
            continue
        try:
            side.start(drawing)
        except Exception as error:  # a full memory ends this drawing, not the benchmark
            report.note(f"{drawing}: {type(error).__name__}: {str(error)[:200]}")
            return
    for job in options.jobs:
        name = f"{job}, {drawing.pixels} px, batch {drawing.batch}"
        calls, does = _ours(plain, job, drawing)
        theirs = getattr(peer, job)(drawing) if peer else {}
        row = report.measure(name, {"ours": calls, **theirs}, least[job], does)
        if row is not None:
            row["memory"] = _memory(plain, does.temporaries, peer, theirs)
        if moa is not None and job != "vae":  # which is the same
            mixed, does = _ours(moa, job, drawing)
            sides = {"ours, MoA": mixed, "ours": calls}
            row = report.measure(f"MoA {name}", sides, least[job], does)
            if row is not None:
                row["memory"] = _memory(moa, does.temporaries, None, {})
    report.write()


def _ours(side: Ours, job: str, drawing: Drawing) -> tuple[Any, Any]:
    """Give our call of a job, and what its programs do."""
    if job == "call":
        return lambda: side.draw(drawing), side.whole()
    program = {"unet": side.step, "vae": side.decode}[job]
    return program.again, program.work()


def _memory(
    side: Ours, temporaries: float, peer: Diffusers | None, theirs: dict[str, Any]
) -> dict[str, float | None]:
    """Give the bytes that each side holds at its peak."""
    return {
        "ours": side.weight_bytes + temporaries,
        **{name: peer.memory(call) for name, call in theirs.items() if peer},
    }


if __name__ == "__main__":
    sys.exit(main())
