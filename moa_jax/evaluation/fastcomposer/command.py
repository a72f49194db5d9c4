"""`python -m moa_jax.evaluation import-fastcomposer FILE OUT`: released weights, to draw with here.

Exit code 0: done; 2: something in the command or the files must be changed; 130: stopped by Ctrl-C.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from moa_jax.cli import Bar, run
from moa_jax.config import ModelConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(arguments)
    return run(lambda: _import(options), stopped=f"stopped: remove {options.out} and start again")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.evaluation import-fastcomposer",
        description="Make a folder of FastComposer's released weights, as a base and MoA weights. "
        "It needs the extra moa_jax[import], and as much room as the file takes.",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="pytorch_model.bin of huggingface.co/mit-han-lab/fastcomposer",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument(
        "--base",
        default=ModelConfig.base,
        help="the Stable Diffusion 1.5 that it was trained from: its configurations and tokenizer "
        "are read, and no weights (%(default)s)",
    )
    parser.add_argument(
        "--image-encoder",
        help="CLIP folder or hub id, whose configuration is read; default: the base's own, or "
        "where it has none, CLIP ViT-L/14's",
    )
    return parser.parse_args(arguments)


def _import(options: argparse.Namespace) -> None:
    from moa_jax.evaluation.fastcomposer.convert import BASE, convert, require_new, write  # slow

    require_new(options.out)
    with Bar("checking") as bar:
        imported = convert(options.file, options.base, options.image_encoder, bar.advance)
        bar.describe("writing")
        write(options.out, imported)
    console = Console(highlight=False, soft_wrap=True)
    files = [file for file in options.out.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    out, base = (shlex.quote(str(path)) for path in (options.out, options.out / BASE))
    console.print(f"wrote {size / 1e6:,.0f} MB to {options.out}/; to draw as its own script does:")
    console.print(
        f"python sample.py --base {base} --moa {out} --sampler pndm --steps 50 --guidance-scale 5 "
        '--delay 0.2 --prompt "a man <|image|> reading a book" --subject him.jpg',
        markup=False,
    )
