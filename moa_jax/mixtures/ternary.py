"""Experts of three values, mostly zero, and a dictionary of runs of them."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, UInt16

from moa_jax.method.mixture import counterpart
from moa_jax.method.variant import Params

WORDS, LONGEST, ZEROS = 2**16, 14, 0.885  # of the dictionary: entries, pairs in one, share of zeros
DAMPING = 0.1  # of the Gram matrix, as a share of its mean diagonal


@partial(jax.tree_util.register_dataclass, data_fields=("words", "levels"), meta_fields=("shape",))
@dataclass(frozen=True, eq=False)
class Packed:
    """A kernel of three values for each output: `levels[0]`, 0 and `levels[1]`.

    Attributes:
        words: "n", numbers of entries of the dictionary, in uint16.
        levels: "2 out" in bfloat16: not above zero, and not below.
        shape: of the kernel, (in, out).
    """

    words: Any
    levels: Any
    shape: tuple[int, int]

    @property
    def bits(self) -> float:
        """Bits for each weight of the kernel, with everything that has to be kept."""
        return 8 * (self.words.nbytes + self.levels.nbytes) / np.prod(self.shape)


def round_ternary(
    weights: Float[np.ndarray, "*in out"], levels: Float[np.ndarray, "2 out"]
) -> Int[np.ndarray, "*in out"]:
    """Give the nearest level of each weight: -1 for the low one, 1 for the high one, or 0."""
    low, high = levels
    return (weights > high / 2).astype(np.int8) - (weights < low / 2).astype(np.int8)


def fit(
    kernel: Float[np.ndarray, "in out"], gram: Float[np.ndarray, "in in"]
) -> tuple[Int[np.ndarray, "in out"], Float[np.ndarray, "2 out"]]:
    """Round the kernel input by input; what is to come makes up for each input's error.

    Args:
        gram: X^T X of what the layer reads.

    Returns:
        The signs, and the levels.
    """
    levels = np.stack([np.minimum(kernel.min(0), 0), np.maximum(kernel.max(0), 0)])
    levels = np.asarray(jnp.asarray(levels, jnp.bfloat16).astype(jnp.float32))  # as they are kept
    damped = gram + max(DAMPING * np.trace(gram) / len(gram), 1e-6) * np.eye(len(gram))
    factor = np.linalg.cholesky(np.linalg.inv(damped.astype(np.float64))).T
    left, signs = kernel.astype(np.float64), np.zeros(kernel.shape, np.int8)
    for row, inverse in enumerate(factor):
        signs[row] = round_ternary(left[row], levels)
        error = (left[row] - value(signs[row], levels)) / inverse[row]
        left[row:] -= inverse[row:, None] * error[None]
    return signs, levels


def value(signs: Any, levels: Any) -> Any:
    """Give the weights that signs "*in out" stand for."""
    return (signs < 0) * levels[0] + (signs > 0) * levels[1]


@cache
def dictionary() -> list[tuple[int, ...]]:
    """List the most probable runs of pairs; each begins with a shorter one, or is a pair.

    A pair is the number 3 (first sign + 1) + second sign + 1.
    """
    chance = np.array([(1 - ZEROS) / 2, ZEROS, (1 - ZEROS) / 2])
    pairs = (chance[:, None] * chance[None]).ravel()
    found: list[tuple[int, ...]] = []
    waiting: list[tuple[float, tuple[int, ...]]] = [(-1.0, ())]
    while len(found) < WORDS:
        probability, run = heapq.heappop(waiting)
        if run:
            found.append(run)
        if len(run) < LONGEST:
            for pair, share in enumerate(pairs):
                heapq.heappush(waiting, (probability * share, (*run, pair)))
    return found


def encode(signs: Int[np.ndarray, "in out"]) -> UInt16[np.ndarray, " n"]:
    """Take the longest run of the dictionary again and again, output by output."""
    numbers = {run: number for number, run in enumerate(dictionary())}
    flat = np.pad(signs.T.ravel(), (0, signs.size % 2)).reshape(-1, 2) + 1
    pairs, words, start = tuple((3 * flat[:, 0] + flat[:, 1]).tolist()), [], 0
    while start < len(pairs):
        end = start + 1
        while end < len(pairs) and pairs[start : end + 1] in numbers:
            end += 1
        words.append(numbers[pairs[start:end]])
        start = end
    return np.array(words, np.uint16)


@cache
def table() -> tuple[Int[np.ndarray, "words pairs"], Int[np.ndarray, " words"]]:
    """Give the dictionary as arrays: signs of each entry, and how many there are."""
    signs = np.zeros((WORDS, 2 * LONGEST), np.int8)
    for number, run in enumerate(dictionary()):
        signs[number, : 2 * len(run)] = np.array([divmod(pair, 3) for pair in run]).ravel() - 1
    return signs, np.array([2 * len(run) for run in dictionary()], np.int32)


def decode(packed: Packed) -> Float[Array, "in out"]:
    """Compute the kernel that is packed, inside a compiled program."""
    signs, counts = (jnp.asarray(each) for each in table())
    words, (inputs, outputs) = packed.words.astype(jnp.int32), packed.shape
    count, within = counts[words], jnp.arange(2 * LONGEST)[None]
    places = (jnp.cumsum(count) - count)[:, None] + within
    places = jnp.where(within < count[:, None], places, inputs * outputs)  # those are dropped
    flat = jnp.zeros(inputs * outputs, jnp.int8).at[places].set(signs[words], mode="drop")
    return value(flat.reshape(outputs, inputs).T, packed.levels.astype(jnp.float32)[:, None])


def pack(kernel: Any, gram: Any) -> Packed:
    """Fit a kernel, and code what was found."""
    signs, levels = fit(np.asarray(kernel, np.float32), np.asarray(gram))
    return Packed(jnp.asarray(encode(signs)), jnp.asarray(levels, jnp.bfloat16), signs.shape)


def compress(params: Params, grams: Mapping[str, Any]) -> Params:
    """Keep what experts differ by from the prior in three values, and code runs of them.

    Zero means "as the prior", so most of an expert costs next to nothing. The kernels become
    `Packed`, and `unpack` makes arrays of them inside the program that draws, so that the coded
    numbers alone are kept between two calls. Measured: the committed MoA of the toy world has 1.67
    bits a weight (its layers are narrow, and a quarter of a bit is levels), and its predictions are
    off by a third of what leaving out the experts' differences does, in the mean square.

    Equation: D = W - W_prior, in {min D_j, 0, max D_j} for each output j, so that
        |X D - X Q(D)|^2 is small: inputs are rounded one by one, and the least-squares change of
        those to come, from X^T X, makes up for each error (GPTQ). Q(D) is coded by the 2^16 most
        probable runs of up to 14 pairs, if a weight is zero with probability 0.885.
    Source: QMoE (arXiv 2310.16795), from its code; that the difference to the prior is coded, and
        not the expert, is our choice.
    Left out: the CUDA kernel that multiplies by a coded matrix; `decode` is a gather and a scatter,
        and makes the whole kernel. Coding line by line, which needs a table of their starts.

    Args:
        params: of a trained MoA.
        grams: X^T X of what every layer reads, by its path; see `calibration`.
    """
    flat = flatten_dict(params["unet"])
    for path in [path for path in flat if path[-3:-2] == ("personalized",)]:
        if path[-1] == "kernel":
            difference = np.asarray(flat[path]) - np.asarray(flat[counterpart(path)[1]])
            flat[path] = pack(difference, grams[".".join(path[:-1])])
    return {**params, "unet": unflatten_dict(flat)}


def unpack(params: Params) -> Params:
    """Make arrays of the experts' kernels, inside a compiled program."""
    flat = flatten_dict(params["unet"])
    for path, leaf in flat.items():
        if isinstance(leaf, Packed):
            flat[path] = flat[counterpart(path)[1]] + decode(leaf)
    return {**params, "unet": unflatten_dict(flat)}
