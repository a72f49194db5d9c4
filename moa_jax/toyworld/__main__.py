"""`python -m moa_jax.toyworld DIR`: write a data set of the toy world, for `train.py`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from moa_jax.cli import Bar, make_folder, run
from moa_jax.errors import InputError
from moa_jax.toyworld.world.scenes import DATA_SET, SIZE, write_data


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.toyworld",
        description="Write captioned pictures of the toy world and a mask of each person.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    add = parser.add_argument
    add("--count", type=int, default=DATA_SET, help="pictures (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the stream of scenes (default: %(default)s)")
    add("--size", type=int, default=SIZE, help="side in pixels (default: %(default)s)")
    add("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    twins = "name as each person's reference the other picture that shows the same person"
    add("--paired", action="store_true", help=twins)
    options = parser.parse_args(arguments)
    return run(lambda: write(options))


def write(options: argparse.Namespace) -> None:
    """Write the data set, with a progress bar.

    Raises:
        InputError: a number is too small, or the folder cannot be made.
    """
    for name in ("count", "size", "workers"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: must be 1 or more")
    folder = make_folder("DIR", options.folder)
    with Bar("drawing", options.count) as bar:
        write_data(
            folder,
            options.count,
            options.seed,
            options.size,
            on_pictures=bar.advance,
            workers=options.workers,
            paired=options.paired,
        )
    print(f"wrote {options.count} pictures to {folder}/")


if __name__ == "__main__":
    sys.exit(main())
