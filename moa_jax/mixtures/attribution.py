"""Which pixels of a portrait the drawn person is made of."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moa_jax.backbone.clip import normalize_pixels
from moa_jax.errors import InputError
from moa_jax.method.losses import union_mask
from moa_jax.method.model import MoA
from moa_jax.method.variant import Params

Picture = Float[Array, "H W C"]
Score = Callable[[Any], Array]
Baseline = Callable[[np.random.Generator, Any, Sequence[Any]], Any]


def integrated_gradients(
    score: Score, picture: Float[Array, "H W C"], baseline: Float[Array, "H W C"], steps: int
) -> Float[Array, "H W C"]:
    """Share the difference of two pictures' scores out among the pixels.

    The slope is averaged over the middles of `steps` equal parts of the way.
    """
    change = picture - baseline

    def add(total: Array, share: Array) -> tuple[Array, None]:
        return total + jax.grad(score)(baseline + share * change), None

    middles = (jnp.arange(steps) + 0.5) / steps
    total, _ = jax.lax.scan(add, jnp.zeros_like(picture), middles)
    return change * total / steps


def blurred(picture: Any, width: float) -> Any:
    """Blur by a Gaussian of this deviation, in pixels; beyond the edge is what is at the edge."""
    reach = int(3 * width) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        margins = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        padded = np.pad(np.asarray(picture, np.float32), margins, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis)
        picture = windows @ kernel
    return picture


def _normal(random: np.random.Generator, picture: Any, others: Sequence[Any]) -> Any:
    return random.normal(picture.mean(), picture.std(), picture.shape)


def _uniform(random: np.random.Generator, picture: Any, others: Sequence[Any]) -> Any:
    return random.uniform(picture.min(), picture.max(), picture.shape)


def _blur(random: np.random.Generator, picture: Any, others: Sequence[Any]) -> Any:
    return blurred(picture, random.uniform(0.05, 0.2) * len(picture))


def _constant(random: np.random.Generator, picture: Any, others: Sequence[Any]) -> Any:
    color = random.uniform(picture.min(), picture.max(), picture.shape[-1])
    return np.broadcast_to(color, picture.shape)


def _other(random: np.random.Generator, picture: Any, others: Sequence[Any]) -> Any:
    return others[random.integers(len(others))]


FAMILIES: Mapping[str, Baseline] = {
    "normal": _normal,
    "uniform": _uniform,
    "blur": _blur,
    "constant": _constant,
    "other": _other,
}


class Bandit(NamedTuple):
    """What is believed of each family's reward, linear in the context, with Gaussian noise.

    Attributes:
        precision: "F d d", of the coefficients.
        moment: "F d"; the coefficients' mean is precision^-1 moment.
        noise: standard deviation of a reward.
    """

    precision: Float[np.ndarray, "F d d"]
    moment: Float[np.ndarray, "F d"]
    noise: float

    @classmethod
    def unknowing(cls, families: int, width: int, noise: float = 0.1) -> "Bandit":
        """Believe nothing yet: coefficients are standard normal."""
        return cls(np.tile(np.eye(width), (families, 1, 1)), np.zeros((families, width)), noise)

    def choose(self, random: np.random.Generator, context: Float[np.ndarray, " d"]) -> int:
        """Draw coefficients of every family, and take the family that is best with them."""
        drawn = []
        for precision, moment in zip(self.precision, self.moment, strict=True):
            spread = np.linalg.inv(precision)
            drawn.append(random.multivariate_normal(spread @ moment, spread) @ context)
        return int(np.argmax(drawn))

    def learn(self, family: int, context: Float[np.ndarray, " d"], reward: float) -> "Bandit":
        """Update what is believed of a family by one reward."""
        precision, moment = self.precision.copy(), self.moment.copy()
        precision[family] += np.outer(context, context) / self.noise**2
        moment[family] += context * reward / self.noise**2
        return self._replace(precision=precision, moment=moment)


class Explanation(NamedTuple):
    """The best map that was found.

    Attributes:
        attribution: "H W C", shares of the score's difference to the baseline's.
        baseline: "H W C".
        tried: family and reward of every map, in order.
        bandit: what is believed afterwards; the next picture may begin with it.
    """

    attribution: Any
    baseline: Any
    tried: list[tuple[str, float]]
    bandit: Bandit


def deletion(score: Score, picture: Any, attribution: Any, parts: int = 8) -> float:
    """Measure how soon the score falls if pixels are blurred away, those of largest share first.

    Returns:
        The mean fall after 1, ..., `parts` equal parts, as a share of the fall in the end: 1 if
        the first part does it all.
    """
    order = np.argsort(-np.asarray(attribution).sum(-1).ravel(), kind="stable")
    flat, gone = (
        np.asarray(each).reshape(len(order), -1) for each in (picture, blurred(picture, 8.0))
    )
    scores = [float(score(jnp.asarray(picture)))]
    for part in range(1, parts + 1):
        left, count = flat.copy(), len(order) * part // parts
        left[order[:count]] = gone[order[:count]]
        scores.append(float(score(jnp.asarray(left.reshape(picture.shape), jnp.float32))))
    falls = scores[0] - np.array(scores[1:])
    return float(np.mean(falls) / max(abs(falls[-1]), 1e-12))


def explain(
    score: Score,
    picture: Float[Array, "H W C"],
    others: Sequence[Any],
    context: Float[np.ndarray, " d"],
    *,
    bandit: Bandit | None = None,
    metric: Callable[[Any, Any], float] | None = None,
    draws: int = 10,
    steps: int = 16,
    seed: int = 0,
) -> Explanation:
    """Find the baseline whose attribution does best by a metric, among families of random ones.

    Equation: A = (x - b) * mean over t in (0, 1) of grad f(b + t (x - b)), of sum f(x) - f(b);
        b of the family argmax_k theta_k . c, with theta_k drawn from N(P_k^-1 m_k, P_k^-1); then
        P_k += c c^T / s^2 and m_k += c r / s^2, for the metric's reward r; the A of largest r.
    Source: BEE, from its README and a summary of its code: integrated gradients, families of
        baselines, Thompson sampling.
    Left out: a network that makes the context of the picture, in whose place it is given; gradients
        by a network's inner activations; a training of the bandit over many pictures, which is one
        call after the other here, with the last one's `bandit`.

    Args:
        score: of a picture; it has a gradient. See `portrait_score`.
        others: pictures of the same shape, for the family "other".
        context: features of the picture; [1.0] if there are none.
        metric: called with picture and attribution, larger is better; None means `deletion`.
        draws: how many baselines are tried.
        steps: as in `integrated_gradients`.
    """
    random = np.random.default_rng(seed)
    names = list(FAMILIES) if len(others) else [name for name in FAMILIES if name != "other"]
    bandit = bandit or Bandit.unknowing(len(names), len(context))
    attribute = jax.jit(partial(integrated_gradients, score, steps=steps))
    judge = metric or partial(deletion, jax.jit(score))
    best, tried = (-np.inf, None, None), []
    for _ in range(draws):
        family = bandit.choose(random, context)
        drawn = FAMILIES[names[family]](random, np.asarray(picture), others)
        baseline = jnp.asarray(drawn, jnp.float32)
        attribution = attribute(picture, baseline)
        reward = judge(np.asarray(picture), attribution)
        bandit = bandit.learn(family, context, reward)
        tried.append((names[family], reward))
        if reward > best[0]:
            best = (reward, attribution, baseline)
    return Explanation(best[1], best[2], tried, bandit)


def portrait_score(
    model: MoA,
    params: Params,
    given: Sequence[Any],
    target: Float[Array, "1 h w C"],
    mask: Float[Array, "1 1 H W"],
    subject: int,
) -> Score:
    """Score a subject's portrait by how well the subject is denoised with it.

    Args:
        given: latents, timesteps, text, features and tokens of one picture, as `MoA.denoise` takes
            them; the subject's features are those of the portrait that is scored.
        target: what the model should predict.
        mask: of the subject.

    Returns:
        A function of a portrait "H W 3" with values in [0, 255]: minus the mean squared error of
        the prediction inside the mask.

    Raises:
        InputError: the variant looks at portraits in a way of its own.
    """
    if model.variant.replaces("look"):
        raise InputError(f"{model.variant}: attribution needs the portrait's pooled features")
    latents, timesteps, text, features, tokens = given
    inside = union_mask(mask, latents.shape[1:3])[..., None]

    def score(portrait: Array) -> Array:
        encoder = {"params": params["image_encoder"]}
        seen = model.image_encoder.apply(encoder, normalize_pixels(portrait[None]))
        changed = features.at[:, subject].set(seen)
        prediction, _ = model.denoise(params, latents, timesteps, text, changed, tokens)
        error = jnp.square(prediction - target) * inside
        return -jnp.sum(error) / (jnp.sum(inside) * error.shape[-1])

    return score
