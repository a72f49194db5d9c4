"""Several adapters in one model, each projection of which has a gate that chooses among them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.config import MethodConfig
from moa_jax.method.losses import EPSILON
from moa_jax.method.router import EXACT, ROUTER
from moa_jax.method.variant import Forward
from moa_jax.mixtures.options import require
from moa_jax.mixtures.several import OF_WORDS, SeveralLoras, WeighedLoras
from moa_jax.mixtures.shared import strongest

GATE = "gate"  # under this name the gates' logits are sown


class GatedLoras(WeighedLoras):
    """LoRAs that a gate in front of every projection weighs, from what the projection reads.

    Attributes:
        keep: how many adapters a token has.
    """

    keep: int = 2

    def weigh(self, source: Float[Array, "B *places C"], name: str) -> Float[Array, "B *_places n"]:
        """Weigh by the softmax of the best few; sow the logits of all."""
        gate = nn.Dense(self.number, use_bias=False, precision=EXACT, name=f"{ROUTER}.{name}")
        logits = gate(source.astype(jnp.float32))
        flat = logits.reshape(len(logits), -1, self.number)
        self.sow("intermediates", f"{GATE}.{name}", flat)
        return jax.nn.softmax(jnp.where(strongest(logits, self.keep), logits, -jnp.inf), axis=-1)


def gate_loss(logits: Float[Array, "B L n"], labels: Float[Array, "B L n"]) -> Float[Array, ""]:
    """Measure the cross-entropy of a gate on what is labelled.

    Args:
        labels: how much of a token, or pixel, belongs to each adapter's subjects, in [0, 1]; one
            with zeros alone has no label.

    Returns:
        The mean over a picture's labels, and then over pictures; 0 for a picture without labels.
    """
    missed = -jnp.sum(labels * jax.nn.log_softmax(logits, axis=-1), axis=(1, 2))
    return jnp.mean(missed / (jnp.sum(labels, axis=(1, 2)) + EPSILON))


def labelled(
    forward: Forward, words: Sequence[Sequence[int]]
) -> Iterator[tuple[Float[Array, "B _L n"], Float[Array, "B _L n"]]]:
    """Give the logits of every gate, with the labels of what it reads: pixels or words.

    Args:
        words: for each adapter, the tokens of the words whose subjects are its own.
    """
    batch, (rows, columns) = forward.batch, forward.union.shape[1:]
    places, text = batch["subject_tokens"], batch["input_ids"]
    ids = jnp.take_along_axis(text, places, axis=1, mode="clip")
    own = jnp.stack([jnp.isin(ids, jnp.array(each, ids.dtype)) for each in words], axis=-1)
    own = (own & batch["subject_present"][..., None]).astype(jnp.float32)  # "B K n"
    of_words = jnp.einsum("bks,bkn->bsn", jax.nn.one_hot(places, text.shape[1]), own)
    masks = batch["masks"].astype(jnp.float32)
    for path, logits in forward.seen.extra.items():
        layer, _, name = path.rpartition(f".{GATE}.")
        if layer and name in OF_WORDS and ".attn2." in path:
            yield logits, of_words
        elif layer:
            coarser = math.sqrt(rows * columns / logits.shape[1])
            size = (round(rows / coarser), round(columns / coarser))
            small = jax.image.resize(masks, (*masks.shape[:2], *size), "linear")
            yield logits, jnp.einsum("bkhw,bkn->bhwn", small, own).reshape(logits.shape)


@dataclass(frozen=True)
class Meteora(SeveralLoras):
    """Every projection has a gate over the adapters, which is told whose subject it looks at.

    Equation: y = W_0 x + scale sum_i w_i B_i A_i x, w the softmax of the `keep` largest of G x, for
        each of the four projections; loss: supervision times the mean over all gates of the
        cross-entropy of softmax(G x) with the label of x. A pixel's label is the adapter of the
        subject whose mask covers it, a word's that of its own subject; the others have none.
    Source: MeteoRA (arXiv 2405.13053), from its code: a gate for each linear layer, the best two,
        and the cross-entropy with the adapter that a token's task belongs to.
    Left out: kernels that compute the chosen adapters alone: here all are computed, and the others
        multiplied by zero. The runs' prompts and routers, as in `moa_jax.mixtures.several.XLora`.

    Attributes:
        keep: how many adapters a pixel, or a word, has.
        words: for each adapter, the tokens of the words whose subjects are its own. As it stands,
            those of the toy world: man, woman, kid. Without any, the gates are not supervised.
        supervision: weight of the cross-entropy in the loss.
    """

    keep: int = 2
    words: tuple[tuple[int, ...], ...] = ((545,), (738,), (680,))
    supervision: float = 1.0

    def __post_init__(self) -> None:
        """Refuse options that do not belong together."""
        super().__post_init__()
        require(1 <= self.keep <= self.number, "keep", self.keep, f"1 to number={self.number}")
        fits = len(self.words) in (0, self.number)
        require(fits, "words", self.words, f"empty, or a tuple for each of number={self.number}")
        require(self.supervision >= 0, "supervision", self.supervision, "0 or more")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        sizes = {"number": self.number, "rank": self.rank, "scale": self.scale, "keep": self.keep}
        return {"personalized": partial(GatedLoras, **sizes)}

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return the mean of the gates' losses."""
        if not self.words:
            return {}
        found = [gate_loss(*pair) for pair in labelled(forward, self.words)]
        return {"gates": self.supervision * sum(found) / len(found)}
