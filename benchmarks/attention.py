"""Time attention at the four levels of Stable Diffusion, by each implementation that runs here.

    python -m benchmarks.attention
    python -m benchmarks.attention --pixels 256 --backward --repeats 3

Each level attends to itself and to 77 words. The reference of the ratios is what `auto` chooses;
torch's `scaled_dot_product_attention` runs beside it where torch is there. The least is two
products, and one reading of queries, keys and values and one writing of the result.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.report import Report, add_common_options
from benchmarks.work import done, needed
from moa_jax.backbone.attention_kernels import choose_attend, kernel_of, xla
from moa_jax.cli import run
from moa_jax.sampling.load import choose_dtype

HEADS, WORDS, DOWNSCALE = 8, 77, 8
WIDTHS = (40, 80, 160, 160)  # of a head, at each level of Stable Diffusion 1.x


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--pixels", type=int, default=512, help="of a side of the picture")
    parser.add_argument("--batch", type=int, default=2, help="rows: twice the pictures")
    parser.add_argument("--dtype", help="left out: bfloat16 on a GPU or TPU, float32 on a CPU")
    parser.add_argument("--backward", action="store_true", help="with the gradients")
    parser.add_argument("--no-peers", action="store_true", help="leave torch out")
    add_common_options(parser)
    options = parser.parse_args(argv)
    return run(lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """Measure and report what the command line asks for."""
    report, dtype = Report("attention", options), choose_dtype(options.dtype)
    if not options.no_peers and find_spec("torch") is None:
        report.note("no peer: torch cannot be imported")
    for level, width in enumerate(WIDTHS):
        tokens = (options.pixels // DOWNSCALE // 2**level) ** 2
        for context in (tokens, WORDS):
            _measure(report, options, (tokens, context, width), dtype)


def _measure(
    report: Report, options: argparse.Namespace, shape: tuple[int, int, int], dtype: Any
) -> None:
    """Measure one layer's attention: tokens, tokens that are attended to, width of a head."""
    tokens, context, width = shape
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [
        jax.random.normal(key, (options.batch, length, HEADS, width), dtype)
        for key, length in zip(keys, (tokens, context, context), strict=True)
    ]
    platform = jax.default_backend()
    names = ["auto", "xla", "blocked"]
    names += [kernel] if (kernel := kernel_of(platform)) else []
    calls, works = {}, {}
    for name in names:
        function = _function(choose_attend(name, platform), options.backward)
        try:
            compiled = jax.jit(function).lower(*arrays).compile()
        except Exception as error:  # a kernel that refuses this shape
            report.note(f"{name} at {shape}: {type(error).__name__}: {str(error)[:200]}")
            continue
        calls[name] = lambda compiled=compiled: jax.block_until_ready(compiled(*arrays))
        works[name] = done(compiled)
    if "auto" not in calls:
        return
    if not options.no_peers and find_spec("torch"):
        calls["torch"] = _torch(arrays, options.backward)
    report.measure(
        f"{tokens} x {context}, {HEADS} heads of {width}, batch {options.batch}",
        calls,
        needed(_function(xla, options.backward), *arrays),
        works["auto"],
        programs={name: work.numbers() for name, work in works.items()},
    )


def _function(attend: Callable[..., Any], backward: bool) -> Callable[..., Any]:
    """Attend; or attend, and give the gradients of the sum."""
    if not backward:
        return attend

    def total(*arrays: Any) -> Any:
        return jnp.sum(attend(*arrays).astype(jnp.float32))

    return jax.grad(total, argnums=(0, 1, 2))


def _torch(arrays: Sequence[Any], backward: bool) -> Callable[[], None]:
    """Give the same by torch, whose heads stand before the tokens."""
    import numpy as np
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, arrays[0].dtype.name)
    given = [
        torch.tensor(np.asarray(array, np.float32)).to(device, kind).transpose(1, 2).contiguous()
        for array in arrays
    ]
    for tensor in given:
        tensor.requires_grad_(backward)

    def call() -> None:
        mixed = torch.nn.functional.scaled_dot_product_attention(*given)
        if backward:
            torch.autograd.grad(mixed.float().sum(), given)
        if device == "cuda":
            torch.cuda.synchronize()

    return call


if __name__ == "__main__":
    sys.exit(main())
