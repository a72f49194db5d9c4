"""Pretrain the toy world's Stable Diffusion from nothing: scenes, autoencoder, towers, prior.

    python -m moa_jax.toyworld.pretraining [OUT] [section.key=value ...] [--stages vae,clip]

Every stage resumes where it stopped and is skipped when done; `vae` and `clip` need only the scenes
and may run side by side. OUT/model is a diffusers folder in half precision. Every default is in
`moa_jax.toyworld.pretraining.recipe`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from moa_jax.cli import run
from moa_jax.config import override
from moa_jax.runtime import keep_programs
from moa_jax.toyworld.pretraining.recipe import Recipe
from moa_jax.toyworld.pretraining.stages import STAGES, pretrain


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.toyworld.pretraining",
        description="Pretrain the toy world's networks; resumes where it stopped.",
    )
    parser.add_argument("output", nargs="?", default="runs/toyworld", metavar="OUT")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument(
        "--stages", default=",".join(STAGES), help="some of these, in order (default: %(default)s)"
    )
    options = parser.parse_intermixed_args(arguments)
    output, overrides = options.output, options.overrides
    if "=" in output:  # OUT was left out, and this is an override
        output, overrides = parser.get_default("output"), [output, *overrides]

    def work() -> None:
        keep_programs()
        pretrain(Path(output), override(Recipe(), overrides), options.stages.split(","))

    return run(work, stopped="stopped: the same command resumes from the newest checkpoint")


if __name__ == "__main__":
    sys.exit(main())
