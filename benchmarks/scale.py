"""Say what a step and a drawing take at least on pods of TPUs, from the compiler; no TPU is needed.

    python -m benchmarks.scale --out docs/scale            compile what is missing, write the page
    python -m benchmarks.scale --out docs/scale --no-plan  write the page from the plans on record

OUT/plans.json holds one plan for each of PLANS, OUT.md is the page, OUT.png its figure. A plan at
full size takes a few minutes of one core and is kept as soon as it is there, so that the command
goes on where it was stopped. The plans are compiled one after the other, each in the planner's own
process.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.bounds import Bound, bound
from benchmarks.models import write_configs
from benchmarks.scale_page import Run, write
from moa_jax.cli import run
from moa_jax.config import Config, MethodConfig, load_config, override
from moa_jax.errors import InputError

RUN = Path(__file__).parents[1] / "configs" / "sd15_ffhq.py"  # the paper's run


@dataclass(frozen=True)
class Job:
    """One plan.

    Attributes:
        topology: as `train.py --plan` takes it.
        images: pictures in one step on all chips together, or drawn at once on one chip.
        preset: the mesh's; None means a drawing.
        remat: whether the step recomputes its blocks.
        attention: see `moa_jax.backbone.attention_kernels.choose_attend`.
    """

    topology: str
    images: int
    preset: str | None = "fsdp"
    remat: bool = False
    attention: str = "auto"

    @property
    def key(self) -> str:
        """Name of the plan in plans.json."""
        words = [self.preset or "draw", self.topology, str(self.images)]
        words += ["remat"] * self.remat + [self.attention] * (self.attention != "auto")
        return " ".join(words)


PLANS = (
    Job("v5e:2x4", 64),
    Job("v5e:4x4", 128),
    Job("v5e:8x16", 128),
    Job("v5e:2x4", 128, remat=True),
    Job("v6e:2x4", 128),
    Job("v5e:1x1", 4, None, attention="blocked"),
    Job("v5e:16x16", 2048),
    Job("v5e:1x1", 8, None),
    Job("v5e:1x1", 4, None),
    Job("v6e:1x1", 8, None),
    Job("v5p:1x1x1", 8, None),
    Job("v5e:8x16", 128, "dp"),
    Job("v5p:4x4x4", 512),
    Job("v6e:16x16", 2048),
    Job("v5e:8x8", 128),
    Job("v5p:2x2x2", 64),
    Job("v6e:2x4", 64),
    Job("v5e:1x1", 8),
    Job("v5e:8x8", 512),
)


def planned(job: Job, base: Path) -> dict[str, Any]:
    """Compile a plan.

    Args:
        base: folder of Stable Diffusion 1.5's configurations.
    """
    from moa_jax.planning.plan import plan_sampling, plan_training
    from moa_jax.planning.programs import Drawing
    from moa_jax.planning.report import as_json
    from moa_jax.sampling.settings import Settings

    if job.preset is None:
        drawing = Drawing(
            str(base),
            Settings(),
            MethodConfig(),
            attention=job.attention,
            num_images=job.images,
        )
        return as_json(plan_sampling(job.topology, drawing))
    config = step_config(job, base)
    [plan] = plan_training(config, job.topology, [job.preset], largest=False)
    return as_json(plan)


def step_config(job: Job, base: Path) -> Config:
    """Give the paper's run for the chips and pictures of a job."""
    changes = [f"model.base={base}", "model.image_encoder=none"]  # the folder has its own
    changes += [f"train.batch_size={job.images}", f"model.remat={str(job.remat).lower()}"]
    changes += [f"model.attention={job.attention}"]
    return override(load_config(RUN), changes)


def complete(out: Path, jobs: Sequence[Job]) -> None:
    """Compile the plans that OUT/plans.json lacks, and keep each as soon as it is there."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs: a device here is not to be claimed
    kept = read(out)
    with TemporaryDirectory(prefix="moa_jax_scale_") as name:
        base = Path(name)
        write_configs(base, "sd15")
        for job in jobs:
            if job.key in kept:
                continue
            print(f"compiling {job.key}", flush=True)
            made_with = {name: version(name) for name in ("jax", "libtpu")}
            about = {"topology": job.topology, "remat": job.remat, "attention": job.attention}
            kept[job.key] = {**about, "made_with": made_with, **planned(job, base)}
            out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(kept, indent=1) + "\n"
            (out / "plans.json").write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="e.g. docs/scale: plans.json in it, page beside it")
    add("--no-plan", action="store_true", help="compile nothing: write from the plans on record")
    add("--efficient", type=float, default=0.8, help="share of a chip's pictures, 0 to 1")
    add("--price", action="append", default=[], metavar="v5e=DOLLARS", help="of one chip-hour")
    options = parser.parse_args(argv)
    return run(lambda: make(options))


def make(options: argparse.Namespace) -> None:
    """Compile what is missing, if that is wanted, and write the page.

    Raises:
        InputError: a price cannot be read, or the planner refuses a plan.
    """
    prices = dict(map(price, options.price))
    if not options.no_plan:
        complete(options.out, PLANS)
    write(*on_record(options.out, options.efficient, prices), options.out)


def on_record(
    out: Path, efficient: float = 0.8, prices: Mapping[str, float] | None = None
) -> tuple[list[Bound], Run]:
    """Read the plans on record.

    Args:
        out: folder of plans.json.
        efficient: see `Run`.
        prices: see `Run`.
    """
    kept, train = read(out), load_config(RUN).train
    missing = [job.key for job in PLANS if job.key not in kept]
    about = Run(train.batch_size, train.steps, efficient, prices or {}, missing)
    return [*map(bound, kept.values())], about


def read(out: Path) -> dict[str, dict[str, Any]]:
    """Read OUT/plans.json; empty if it is not there."""
    file = out / "plans.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def price(given: str) -> tuple[str, float]:
    """Read KIND=DOLLARS.

    Raises:
        InputError: it is not of that form.
    """
    known = sorted({job.topology.partition(":")[0] for job in PLANS})
    found = re.fullmatch(rf"({'|'.join(known)})=(\d+(?:\.\d+)?)", given)
    if found and float(found[2]) > 0:
        return found[1], float(found[2])
    raise InputError(
        f"--price {given}: must be one of {', '.join(known)}, then = and dollars above 0 of a "
        "chip-hour, e.g. v5e=1.5"
    )


if __name__ == "__main__":
    sys.exit(main())
