"""A student that learns to learn, from one look, what several finished adapters know together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from moa_jax.backbone.attention_kernels import Attend
from moa_jax.backbone.blocks import LayerNorm
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import MixtureOfAttention
from moa_jax.method.variant import Flat, Observations, Run
from moa_jax.mixtures.options import require
from moa_jax.mixtures.several import SeveralLoras, WeighedLoras, is_factor
from moa_jax.mixtures.shared import low_rank

TEACHER, GAINS, AGGREGATOR = "teacher", "gains", "aggregator"  # in the context's `shared`


class StudentExpert(WeighedLoras):
    """The prior's attention with the LoRA of a teacher or, if none is named, of the student.

    Attributes:
        teacher: which of the adapters.
        gains: "B rank", factors of the student's ranks; None is 1.
    """

    teacher: Any = None
    gains: Any = None

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places D"]:
        """Apply the prior's projection, and the change to it."""
        if self.teacher is None:
            own = low_rank(source, f"student.{name}", width, self.rank, self.dtype, self._amplify)
            if not self.is_initializing():
                return self.prior(source, name) + self.scale * own
        return super().project(source, name, width, bias)

    def weigh(self, source: Float[Array, "B *places C"], name: str) -> Float[Array, "B *_places n"]:
        """Give one teacher all the weight."""
        one = jnp.arange(self.number) == (0 if self.teacher is None else self.teacher)
        return jnp.broadcast_to(one.astype(jnp.float32), (*source.shape[:-1], self.number))

    def _amplify(self, low: Float[Array, "B *places R"]) -> Float[Array, "B *places R"]:
        if self.gains is None:
            return low
        gains = self.gains.reshape(len(low), *(1 for _ in low.shape[2:]), self.rank)
        return low * gains.astype(low.dtype)


class StudentMixture(MixtureOfAttention):
    """Mix with the teacher, or the student's gains, that the context names."""

    def builders(
        self, hidden: Float[Array, "B H W D"], context: Any
    ) -> Mapping[str, Callable[..., nn.Module]]:
        """Hand them on to the expert."""
        shared = context.shared or {}
        given = {"teacher": shared.get(TEACHER)}
        if GAINS in shared:
            given["gains"] = shared[GAINS][:, 2 * self.block + self.cross]
        made = super().builders(hidden, context)
        return {name: partial(make, **given) for name, make in made.items()}


class Aggregator(nn.Module):
    """Agree on one prediction: at every pixel a transformer layer over the teachers' predictions.

    It starts near their mean, and their order does not matter.

    Attributes:
        width: of a token.
        heads: of its attention.
    """

    width: int = 16
    heads: int = 2

    @nn.compact
    def __call__(self, predictions: Float[Array, "B H W n C"]) -> Float[Array, "B H W C"]:
        """Aggregate."""
        tokens = nn.Dense(self.width, name="tokens")(predictions)
        normalised = LayerNorm(name="norm1")(tokens)
        tokens += nn.MultiHeadDotProductAttention(self.heads, name="attention")(normalised)
        inner = nn.Dense(2 * self.width, name="fc1")(LayerNorm(name="norm2")(tokens))
        tokens += nn.Dense(self.width, name="fc2")(nn.gelu(inner, approximate=False))
        small = nn.initializers.normal(0.02)
        agreed = nn.Dense(predictions.shape[-1], kernel_init=small, name="out")(tokens)
        return jnp.mean(predictions + agreed, axis=-2)


@dataclass(frozen=True)
class MetaDmoe(SeveralLoras):
    """Before a student predicts, it takes one step towards what all teachers say of the picture.

    The teachers are finished adapters, of other domains than the picture's perhaps. Nothing but the
    noisy picture itself is needed for the step, so that it is taken when drawing too. Aggregator
    and student are trained by the loss after the step.

    Equation: g' = 1 - rate * gradient at g = 1 of |f(x; g) - a(f_1(x), ..., f_n(x))|^2; prediction
        f(x; g'). f is the student, y = W_0 x + scale B (g * A x) in every projection, and the mean
        square is over one picture; a is the aggregator, f_i teacher i.
    Source: Meta-DMoE (NeurIPS 2022), from its code: fixed teachers, a transformer without places
        over them, one inner step on the squared distance, the outer loss through that step.
    Left out: classes, a support set apart from the queries (the noisy picture supports itself), and
        the mask that hides a picture's own domain from the aggregator. The inner step moves gains
        of the student's ranks for each picture, and not all its weights. Fused attention has no
        second derivative: train it with model.attention=xla.

    Attributes:
        runs: folders of the teachers; without any, each is the prior, which sees the subjects.
        rate: of the inner step, at least 0.
    """

    exceptions = {
        "gradients": "without finished runs all teachers say the same, and then it does not matter "
        "to which of them the aggregator attends"
    }

    number: int = 2
    rate: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a step away from the teachers."""
        super().__post_init__()
        require(self.rate >= 0, "rate", self.rate, "0 or more")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        sizes = {"number": self.number, "rank": self.rank, "scale": self.scale}
        return {"personalized": partial(StudentExpert, **sizes)}

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return the builder of attention layers."""
        experts = partial(self.experts, method)
        return partial(StudentMixture, router=self.router(method), experts=experts, attend=attend)

    def learns(self, path: str) -> bool:
        """Tell whether a weight learns: the teachers never do."""
        return not is_factor(path)

    def shared(self, prior: Flat, key: Array) -> Flat:
        """Return the aggregator's weights."""
        channels = prior["conv_out", "kernel"].shape[-1]
        params = Aggregator().init(key, jnp.zeros((1, 1, 1, self.number, channels)))["params"]
        return {(AGGREGATOR, *path): leaf for path, leaf in flatten_dict(params).items()}

    def predict(self, run: Run, context: Any) -> tuple[Array, Observations]:
        """Predict with the student after its step."""

        def ask(**shared: Any) -> tuple[Array, Observations]:
            return run(context._replace(shared=shared))

        said = [ask(teacher=jnp.array(number))[0] for number in range(self.number)]
        said = jax.lax.stop_gradient(jnp.stack(said, axis=-2).astype(jnp.float32))
        weights = {"params": context.shared[AGGREGATOR]}
        target = Aggregator().apply(weights, said)

        def missed(gains: Float[Array, "B layers R"]) -> Float[Array, ""]:
            squares = jnp.square(ask(gains=gains)[0].astype(jnp.float32) - target)
            return jnp.sum(jnp.mean(squares, axis=(1, 2, 3)))  # each picture by itself

        batch, blocks = context.subjects.shape[:2]
        gains = jnp.ones((batch, 2 * blocks, self.rank))
        return ask(gains=gains - self.rate * jax.grad(missed)(gains))
