"""Time the convolutions of Stable Diffusion's U-Net in each formulation, on a CPU.

    python -m benchmarks.convolutions
    python -m benchmarks.convolutions --pixels 256 --repeats 3

"ours" is the convolution as the networks have it, compiled with the options that a pipeline takes
for the U-Net. Beside it stand XLA's own choice of a library, and the same sums in other words:
channels before pixels; one matrix product of all neighbours (im2col); a product for each place of
the kernel; the fewest products (Winograd's F(2x2, 3x3), kernels transformed beforehand). torch runs
where it is there. The least is the products, and one reading of picture and kernel and one writing
of the sum.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.report import Report, add_common_options
from benchmarks.work import done, needed
from moa_jax.backbone.convolutions import convolution_options
from moa_jax.cli import run

DOWNSCALE = 8
# How often the sides are halved, channels that come and that go, side of the kernel.
LAYERS = (
    *((0, 320, 320, 3), (1, 320, 640, 3), (1, 640, 640, 3), (2, 1280, 1280, 3)),
    *((3, 1280, 1280, 3), (1, 1920, 640, 3), (1, 960, 640, 1)),
)

Picture = Float[Array, "B H W C"]
Kernel = Float[Array, "k k C D"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolutions", description=__doc__)
    parser.add_argument("--pixels", type=int, default=512, help="of a side of the picture")
    parser.add_argument("--batch", type=int, default=2, help="rows: twice the pictures")
    parser.add_argument("--no-peers", action="store_true", help="leave torch out")
    add_common_options(parser)
    options = parser.parse_args(argv)
    return run(lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """Measure and report what the command line asks for."""
    report = Report("convolutions", options)
    peer = not options.no_peers and find_spec("torch") is not None
    if not peer:
        report.note("no peer: --no-peers, or torch cannot be imported")
    if convolution_options() is None:
        report.note("ours is XLA's own choice on this machine")
    for halved, channels, out, size in LAYERS:
        side = options.pixels // DOWNSCALE // 2**halved
        keys = jax.random.split(jax.random.key(0))
        picture = jax.random.normal(keys[0], (options.batch, side, side, channels))
        kernel = jax.random.normal(keys[1], (size, size, channels, out)) / (size * channels**0.5)
        calls, does = _ways(picture, kernel)
        if peer:
            calls["torch"] = _torch(picture, kernel)
        name = f"{side} x {side}, {channels} to {out}, {size} x {size}, batch {options.batch}"
        report.measure(name, calls, needed(convolve, picture, kernel), does)


def _ways(picture: Picture, kernel: Kernel) -> tuple[dict[str, Callable[[], Any]], Any]:
    """Compile every formulation, and say what ours does."""
    ours = convolution_options()
    programs = {
        "ours": (convolve, ours, kernel),
        "XLA's own choice": (convolve, None, kernel),
        "channels first": (channels_first, ours, kernel),
        "one product": (one_product, ours, kernel),
    }
    if len(kernel) == 3:
        programs["nine products"] = (nine_products, ours, kernel)
    if len(kernel) == 3 and picture.shape[1] % 2 == 0:  # Winograd takes tiles of two by two
        programs["Winograd"] = (winograd, ours, transformed(kernel))
    calls: dict[str, Callable[[], Any]] = {}
    works = {}
    for name, (function, options, given) in programs.items():
        compiled = jax.jit(function, compiler_options=options).lower(picture, given).compile()
        works[name] = done(compiled)
        calls[name] = lambda compiled=compiled, given=given: jax.block_until_ready(
            compiled(picture, given)
        )
    return calls, works["ours"]


def convolve(picture: Picture, kernel: Kernel) -> Picture:
    """Convolve as the networks do."""
    return jax.lax.conv_general_dilated(
        picture, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def channels_first(picture: Picture, kernel: Kernel) -> Picture:
    """Convolve with channels before pixels, the order of PyTorch."""
    given = picture.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
    return jax.lax.conv_general_dilated(*given, (1, 1), "SAME").transpose(0, 2, 3, 1)


def one_product(picture: Picture, kernel: Kernel) -> Picture:
    """Convolve by one matrix product of every pixel's neighbours."""
    neighbours = jnp.concatenate(_moved(picture, len(kernel)), axis=-1)
    return neighbours @ kernel.reshape(-1, kernel.shape[-1])


def nine_products(picture: Picture, kernel: Kernel) -> Picture:
    """Convolve by a matrix product for each place of the kernel."""
    places = kernel.reshape(-1, *kernel.shape[2:])
    return sum(part @ place for part, place in zip(_moved(picture, 3), places, strict=True))


def _moved(picture: Picture, size: int) -> list[Picture]:
    """Move a picture so that each place of a kernel meets its pixel."""
    _, height, width, _ = picture.shape
    edge = size // 2
    padded = jnp.pad(picture, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    return [
        padded[:, row : row + height, column : column + width]
        for row in range(size)
        for column in range(size)
    ]


# Of F(2x2, 3x3), arXiv 1509.09308: a tile of 4 x 4 pixels and a kernel give 2 x 2 results.
OF_TILE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
OF_RESULT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)


def transformed(kernel: Kernel) -> Float[Array, "4 4 C D"]:
    """Transform a kernel for `winograd`."""
    return jnp.einsum("ai,ijcd,bj->abcd", OF_KERNEL, kernel, OF_KERNEL)


def winograd(picture: Picture, kernel: Float[Array, "4 4 C D"]) -> Picture:
    """Convolve with 16 products where 36 are usual; sides must be even."""
    batch, height, width, _ = picture.shape
    padded = jnp.pad(picture, ((0, 0), (1, 1), (1, 1), (0, 0)))
    tiles = [
        [padded[:, row : row + height : 2, column : column + width : 2] for column in range(4)]
        for row in range(4)
    ]
    tiles = _both_ways(OF_TILE, tiles)
    products = [
        [tiles[row][column] @ kernel[row, column] for column in range(4)] for row in range(4)
    ]
    results = [jnp.stack(row, axis=3) for row in _both_ways(OF_RESULT, products)]
    return jnp.stack(results, axis=2).reshape(batch, height, width, -1)


def _both_ways(matrix: np.ndarray, parts: list[list[Any]]) -> list[list[Any]]:
    """Multiply a grid of arrays by a matrix from the left, and by its transpose from the right."""

    def combine(row: np.ndarray, arrays: Sequence[Any]) -> Any:
        return sum(float(factor) * each for factor, each in zip(row, arrays, strict=True) if factor)

    columns = list(zip(*parts, strict=True))
    left = [[combine(row, column) for column in columns] for row in matrix]
    return [[combine(row, each) for row in matrix] for each in left]


def _torch(picture: Picture, kernel: Kernel) -> Callable[[], Any]:
    """Give the same by torch."""
    import torch

    given, weight = (
        torch.from_numpy(np.array(array.transpose(order)))
        for array, order in ((picture, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)))
    )
    return lambda: torch.nn.functional.conv2d(given, weight, padding=len(kernel) // 2)


if __name__ == "__main__":
    sys.exit(main())
