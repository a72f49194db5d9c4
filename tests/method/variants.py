"""Variants that tests try: of several experts, with a network of its own everywhere, and broken."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from moa_jax.backbone.transformer import FeedForward
from moa_jax.method.mixture import Expert
from moa_jax.method.variant import Variant


@dataclass(frozen=True)
class ThreeExperts(Variant):
    """Two experts beside the prior, but one in the first block."""

    def experts(self, method, block):
        names = ("personalized",) if block == 0 else ("personalized", "style")
        return dict.fromkeys(names, Expert)


class ScaledFeedForward(FeedForward):
    @nn.compact
    def __call__(self, hidden, context=None):
        gain = self.param("gain", nn.initializers.zeros, (hidden.shape[-1],))
        scale = 1.0 if context.dial is None else jnp.minimum(context.dial[0], 1.0)
        shared = jnp.tanh(context.shared["tone"]).mean()
        outputs = nn.Dense(8 * hidden.shape[-1], dtype=self.dtype, name="net.0.proj")(hidden)
        value, gate = jnp.split(outputs, 2, axis=-1)
        self.sow("intermediates", "gate", jnp.mean(gate))
        plain = nn.Dense(hidden.shape[-1], dtype=self.dtype, name="net.2")(
            value * jax.nn.gelu(gate, approximate=False)
        )
        return plain * (1 + scale * gain[None, None, None] * (1 + shared))


@dataclass(frozen=True)
class Everything(Variant):
    """Overrides what the other tests do not; what is shared is saved and only half of it learns."""

    gain: float = 1.0

    def feed_forward(self, method):
        return ScaledFeedForward

    def look(self, networks, params, images):
        pooled = super().look(networks, params, images)
        return jnp.concatenate([pooled, images.mean((2, 3)).astype(pooled.dtype) / 255], axis=-1)

    def shared(self, prior, key):
        return {("tone",): jax.random.normal(key, (3,)), ("codes",): jnp.arange(4, dtype=jnp.int8)}

    def learns(self, path):
        return not path.endswith("codes")

    def losses(self, forward):
        gates = [value for path, value in forward.seen.extra.items() if path.endswith(".gate")]
        assert gates, "what the networks sowed did not arrive"
        return {"gate": 1e-3 * jnp.square(sum(gates)), "progress": 0 * forward.batch["progress"][0]}

    def predict(self, run, context):
        prediction, seen = run(context)
        return prediction * self.gain, seen


class LeakyRouter(nn.Module):
    """Sums to less than one, and looks at the other pictures of the batch."""

    experts: int
    block: int = 0

    @nn.compact
    def __call__(self, hidden, context):
        logits = nn.Dense(self.experts, name="logits")(hidden - hidden.mean(0, keepdims=True))
        return self.weigh(jax.nn.softmax(logits, axis=-1))

    def weigh(self, weights):
        return weights


class ShortRouter(LeakyRouter):
    def weigh(self, weights):
        return 0.9 * weights


@dataclass(frozen=True)
class Leaky(Variant):
    def router(self, method):
        return LeakyRouter


@dataclass(frozen=True)
class Short(Variant):
    exceptions = {"prior_at_start": "seen by the check that comes after it"}

    def router(self, method):
        return ShortRouter


@dataclass(frozen=True)
class Idle(Variant):
    """An array that nothing reads."""

    def shared(self, prior, key):
        return {("unused",): jnp.ones(3)}


class OtherExpert(Expert):
    def project(self, source, name, width, bias=False):
        return nn.Dense(width, use_bias=bias, name=f"own_{name}")(source)


@dataclass(frozen=True)
class NotThePrior(Variant):
    """An expert that starts at random."""

    def experts(self, method, block):
        return {"personalized": OtherExpert}


@dataclass(frozen=True)
class Admitted(NotThePrior):
    exceptions = {"prior_at_start": "its expert starts at random"}


@dataclass(frozen=True)
class Forgetful(Variant):
    """Compares unequal to itself, made again."""

    token: object = None

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)
