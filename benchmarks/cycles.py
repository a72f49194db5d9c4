"""Say how long the TPU compiler expects each operation to take; no TPU is needed.

    python -m benchmarks.cycles pass --images 4 --out results    of the U-Net with MoA, 512 pixels
    python -m benchmarks.cycles step --images 8 --out results    of the paper's training, one chip

The compiler writes the cycles that it expects of an operation when it has made the machine code. At
full size this takes a core 8 minutes for a pass and more than half an hour for the training step.
OUT/cycles-JOB-SIZE-IMAGES.txt keeps what it wrote: while it is there, nothing is compiled again.
Beside the cycles stands what the matrix products among them take at the chip's peak. Attention
kernels have no estimate, and are told apart.
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.models import SIZES, write_configs
from benchmarks.scale import Job, step_config
from moa_jax.cli import run
from moa_jax.config import MeshConfig, MethodConfig
from moa_jax.planning.flops import kernel_flops, product_flops
from moa_jax.planning.hlo import Module, Operation, parse
from moa_jax.planning.origin import Origins, network_of
from moa_jax.planning.programs import Drawing, Program, sampling_programs, training_program
from moa_jax.planning.topology import topology_devices
from moa_jax.sampling.settings import Settings
from moa_jax.training.chips import CHIPS
from moa_jax.training.mesh import make_mesh

CHIP = CHIPS["TPU v5e"]
# Its four matrix units do 128 x 128 multiply-adds a cycle each, and reach its peak at this rate.
HERTZ = 1.5e9

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_PLACES = re.compile(r"window=\{size=[0-9x]*[2-9]")  # a kernel of more than one place
# What an operation is counted as: the first whose kinds it has, alone or fused with others.
_SUMS, _CASTS = frozenset(("reduce", "reduce-window")), frozenset(("convert",))
_MOVES = frozenset(("copy", "transpose", "concatenate", "slice", "pad", "dynamic-update-slice"))


@dataclass(frozen=True)
class Expected:
    """What the compiler expects of an operation, in all of its turns.

    Attributes:
        kind: what it does; see `kind_of`.
        network: whose it is, e.g. "UNet backward".
        cycles: of the chip.
        flops: of its matrix products and convolutions.
    """

    kind: str
    network: str
    cycles: float
    flops: float


def expected(module: Module) -> Iterator[Expected]:
    """List the operations of which a text tells the cycles."""
    origins = Origins(module)
    for name, turns in module.scheduled.items():
        for op in module.computations[name].values():
            if told := _CYCLES.search(op.rest):
                members = [(op, name), *_fused(module, op)]
                flops = sum(product_flops(each, module.computations[at]) for each, at in members)
                yield Expected(
                    kind_of([each for each, _ in members]),
                    network_of(origins.of(name, op)),
                    turns * int(told[1]),
                    turns * flops,
                )


def kind_of(members: Sequence[Operation]) -> str:
    """Say what an operation does, from what is fused in it: its most demanding part counts."""
    kinds = {each.kind for each in members}
    if any(each.kind == "convolution" and _PLACES.search(each.rest) for each in members):
        return "convolutions"
    if kinds & {"convolution", "dot"}:  # a TPU's text writes products as convolutions
        return "matrix products"
    for name, meant in (("sums", _SUMS), ("casts", _CASTS), ("moves", _MOVES)):
        if kinds & meant:
            return name
    return "everything else"


def _fused(module: Module, op: Operation) -> Iterator[tuple[Operation, str]]:
    """List the operations inside a fusion, each with its computation's name."""
    for called in op.called("calls"):
        for each in module.computations[called].values():
            yield each, called
            yield from _fused(module, each)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cycles", description=__doc__)
    add = parser.add_argument
    add("job", choices=PROGRAMS, help="what is compiled")
    add("--images", type=int, default=4, help="pictures drawn at once, or in a step")
    add("--size", choices=SIZES, default="sd15", help="of the networks")
    add("--out", type=Path, required=True, help="folder for the compiled text and the table")
    options = parser.parse_args(argv)
    return run(lambda: make(options.job, options.images, options.size, options.out))


def make(job: str, images: int, size: str, out: Path) -> None:
    """Compile, unless the text is there, and print and write the table."""
    name = f"cycles-{job}-{size}-{images}"
    text = out / f"{name}.txt"
    if not text.is_file():
        out.mkdir(parents=True, exist_ok=True)
        print(f"compiling a {job} of {images} pictures to the end for a {CHIP.name}", flush=True)
        text.write_text(compile_whole(job, images, size), encoding="utf-8")
    module = parse(text.read_text(encoding="utf-8"))
    found = markdown(list(expected(module)), kernel_flops(module))
    print(found)
    (out / f"{name}.md").write_text(found + "\n", encoding="utf-8")


def compile_whole(job: str, images: int, size: str) -> str:
    """Give the text of a program that is compiled to machine code."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs: a device here is not to be claimed
    with TemporaryDirectory(prefix="moa_jax_cycles_") as name:
        base = Path(name)
        write_configs(base, size)
        return PROGRAMS[job](base, images).lower().compile().as_text()


def _pass(base: Path, images: int) -> Program:
    drawing = Drawing(str(base), Settings(), MethodConfig(), num_images=images)
    mesh = make_mesh(MeshConfig(), topology_devices(f"{CHIP.name}:1x1")[:1])
    return sampling_programs(drawing, mesh)[1]


def _step(base: Path, images: int) -> Program:
    job = Job(f"{CHIP.name}:1x1", images)
    mesh = make_mesh(MeshConfig(preset=job.preset), topology_devices(job.topology)[:1])
    return training_program(step_config(job, base), mesh)


PROGRAMS = {"pass": _pass, "step": _step}


def markdown(operations: Sequence[Expected], kernels: float) -> str:
    """Lay out the sums by what is done and by network, each in falling order.

    Args:
        kernels: FLOPs of the attention kernels.
    """
    heads = ("expected, ms", "products at peak, ms")
    lines = []
    for attribute in ("kind", "network"):
        sums = defaultdict[str, list[float]](lambda: [0.0, 0.0])
        for each in operations:
            for name in (getattr(each, attribute), "all"):
                sums[name][0] += 1e3 * each.cycles / HERTZ
                sums[name][1] += 1e3 * each.flops / CHIP.flops
        lines += [_line(attribute, *heads), _line(*["---"] * 3)]
        ordered = sorted(sums.items(), key=lambda each: (each[0] == "all", -each[1][0]))
        lines += [_line(name, *(f"{value:.1f}" for value in row)) for name, row in ordered]
        lines.append("")
    at_peak = f"{1e3 * kernels / CHIP.flops:.1f} ms at peak"
    return "\n".join([*lines, f"Attention kernels, of which nothing is told: {at_peak}."])


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
