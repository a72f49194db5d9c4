"""A recurrent state that passes over the prompt and the pixels, in place of attention's pairs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moa_jax.backbone.attention_kernels import Attend
from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.mixture import Expert
from moa_jax.method.variant import Variant
from moa_jax.mixtures.modalities import MarkedMixture
from moa_jax.mixtures.options import require_count

STEPS = (1e-3, 0.1)  # of time, between which a channel's first step is drawn
TAPS = 4  # of the convolution along the sequence


def scan_states(
    decay: Float[Array, "B T *state"], drive: Float[Array, "B T *state"]
) -> Float[Array, "B T *state"]:
    """Compute h_t = decay_t h_(t-1) + drive_t from h_0 = 0, in parallel."""

    def join(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        return earlier[0] * later[0], later[0] * earlier[1] + later[1]

    return jax.lax.associative_scan(join, (decay, drive), axis=1)[1]


def first_step(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draw biases whose softplus lies between `STEPS`."""
    low, high = (math.log(step) for step in STEPS)
    step = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
    return step + jnp.log(-jnp.expm1(-step))


def state_rates(key: Array, shape: tuple[int, int]) -> Float[Array, "I N"]:
    """Give the logarithms of 1 to N for every channel."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1.0, shape[1] + 1)), shape)


class Mamba(nn.Module):
    """Let every pixel read the prompt, and the pixels before and after it, through a state.

    Attributes:
        state: numbers that each channel remembers.
        expand: how many times as many channels as the feature map there are.
    """

    state: int = 16
    expand: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        prompt: Float[Array, "B S C"],
        subjects: Bool[Array, "B S 1"],
        pixels: Float[Array, "B L D"],
    ) -> Float[Array, "B L D"]:
        """Compute; the result is zero at the start.

        Args:
            subjects: which tokens of the prompt are subjects'.
        """
        words, width = prompt.shape[1], pixels.shape[-1]
        inner, rank = self.expand * width, math.ceil(width / 16)

        def project(
            name: str, told: Array, marks: Array, seen: Array, size: int, **options: Any
        ) -> Array:
            """Project each token by the weights of its modality."""
            of_words, of_subjects, of_pixels = (
                nn.Dense(size, dtype=self.dtype, name=f"{name}.{kind}", **options)(source)
                for kind, source in (("words", told), ("subjects", told), ("pixels", seen))
            )
            return jnp.concatenate([jnp.where(marks, of_subjects, of_words), of_pixels], axis=1)

        linear = {"use_bias": False}
        sequence = project("into", prompt, subjects, pixels, inner, **linear)
        # There and back: the prompt comes first in either.
        back = jnp.concatenate([sequence[:, :words], sequence[:, : words - 1 : -1]], axis=1)
        both, marks = jnp.concatenate([sequence, back]), jnp.concatenate([subjects, subjects])
        taps = nn.Conv(
            inner, (TAPS,), padding=[(TAPS - 1, 0)], feature_group_count=inner, name="conv"
        )
        both = nn.silu(taps(both))
        parts = project(
            "x", both[:, :words], marks, both[:, words:], rank + 2 * self.state, **linear
        )
        step, entry, leave = jnp.split(
            parts.astype(jnp.float32), [rank, rank + self.state], axis=-1
        )
        step = project("dt", step[:, :words], marks, step[:, words:], inner, bias_init=first_step)
        step, values = nn.softplus(step.astype(jnp.float32)), both.astype(jnp.float32)
        rates = -jnp.exp(self.param("rates", state_rates, (inner, self.state)))
        decay = jnp.exp(step[..., None] * rates[None, None])
        drive = (step * values)[..., None] * entry[:, :, None, :]
        states = scan_states(decay, drive)[:, words:]
        skip = self.param("skip", nn.initializers.ones, (inner,))
        read = jnp.einsum("btin,btn->bti", states, leave[:, words:])
        read = read + skip[None, None] * values[:, words:]
        there, and_back = jnp.split(read, 2)
        gate = nn.Dense(inner, use_bias=False, dtype=self.dtype, name="gate.pixels")(pixels)
        read = (there + and_back[:, ::-1]).astype(self.dtype) * nn.silu(gate)
        zero = nn.initializers.zeros
        out = nn.Dense(width, use_bias=False, kernel_init=zero, dtype=self.dtype, name="out.pixels")
        return out(read)


class ScanExpert(Expert):
    """The prior's cross-attention to the prompt, with a scan beside it.

    Attributes:
        state: see `Mamba`; so is `expand`.
    """

    state: int = 16
    expand: int = 2

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend, and scan; a last channel of the context is 1 for a subject's token."""
        prompt, marks = context[..., :-1], context[..., -1:] > 0

        def project(source: Array, name: str, width: int, bias: bool = False) -> Array:
            return self.prior(source, name)

        attended = self.attended(project, hidden, prompt, watch)
        mamba = Mamba(self.state, self.expand, self.dtype, name="scan")
        pixels = hidden.reshape(len(hidden), -1, hidden.shape[-1])
        return attended + mamba(prompt, marks, pixels).reshape(hidden.shape)


class ScanMixture(MarkedMixture):
    """Mix in cross-attention, with all pixels: a scan needs them in their order."""

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend and mix."""
        sparse = context.sparse
        if sparse is not None and sparse.capacity < 1:
            raise InputError(
                f"capacity={sparse.capacity}: a scan passes over all pixels; draw with capacity=1"
            )
        return super().__call__(hidden, context, watch)


@dataclass(frozen=True)
class MixtureOfMamba(Variant):
    """A selective state-space model over words, subjects and pixels, with weights for each of them.

    The personalized expert is the prior's frozen cross-attention to the prompt, and beside it a
    scan over [prompt; pixels], once in the pixels' order and once against it. Its cost grows as the
    length of the sequence does.

    Equation: h_t = exp(D_t A) h_(t-1) + D_t x_t B_t, y_t = C_t h_t + skip x_t, where x_t =
        silu(conv(W_in^m u_t)), (d_t, B_t, C_t) = W_x^m x_t and D_t = softplus(W_dt^m d_t + b^m) by
        the weights of the token's modality m; A, skip and the convolution are shared. Output:
        prior's attention + W_out (silu(W_gate u) (y there + y back)), which is zero at the start.
    Source: Mixture-of-Mamba (arXiv 2501.16295), from its code.
    Left out: a model without attention: beside the prior, nothing pretrained is thrown away; gate
        and output of words and subjects, which nobody reads; a place in self-attention.

    Attributes:
        state: numbers that each channel remembers.
        expand: how many times as many channels as the feature map there are. All states of a
            layer are held at once: pixels x channels x state numbers.
    """

    state: int = 16
    expand: int = 2

    def __post_init__(self) -> None:
        """Refuse what is no number of channels."""
        require_count("state", self.state)
        require_count("expand", self.expand)

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": partial(ScanExpert, state=self.state, expand=self.expand)}

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return a builder of mixtures in cross-attention."""
        experts = partial(self.experts, method)
        return partial(ScanMixture, router=self.router(method), experts=experts, attend=attend)
