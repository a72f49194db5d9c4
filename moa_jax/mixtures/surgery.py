"""One adapter after another: each is kept near the earlier ones, and drawing finds out which."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from moa_jax.backbone.attention_kernels import Attend
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert, MixtureOfAttention
from moa_jax.method.variant import Flat, Forward, Moment, Observations, Params, Run
from moa_jax.mixtures.lowrank import Lora
from moa_jax.mixtures.options import require, require_count
from moa_jax.mixtures.runs import read_run
from moa_jax.mixtures.shared import low_rank

TASK, DISTANCES = "task", "distances"
_TASK = re.compile(rf"\b{TASK}(\d+)\b")  # in the path of what belongs to one task


class TaskExpert(Expert):
    """The prior's attention with one LoRA for each task, of which a picture has one.

    Attributes:
        task: "B", the task of each picture, counted from 0.
    """

    tasks: int = 1
    rank: int = 4
    scale: float = 1.0
    task: Any = None

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places D"]:
        """Apply the prior's projection, and the change of the picture's task."""
        projected = self.prior(source, name)
        for number in range(self.tasks):
            change = low_rank(source, f"{TASK}{number + 1}.{name}", width, self.rank, self.dtype)
            here = (self.task == number).reshape(-1, *(1 for _ in source.shape[1:]))
            projected += self.scale * jnp.where(here, change, 0)
        return projected


class TaskMixture(MixtureOfAttention):
    """Mix for the task that the context names; the last cross-attention compares with all tasks.

    It sows `distances` "B tasks": how far a picture's mean feature is from that of each task.

    Attributes:
        tasks: number of tasks; without one in the context, it is the last.
    """

    tasks: int = 1

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend and mix."""
        if self.cross and self.block == context.subjects.shape[1] - 1:
            zeros, width = nn.initializers.zeros, hidden.shape[-1:]
            names = [f"means.{TASK}{number + 1}" for number in range(self.tasks)]
            means = jnp.stack([self.param(name, zeros, width) for name in names])
            # The means follow the features, and not the features the means.
            features = jnp.mean(jax.lax.stop_gradient(hidden.astype(jnp.float32)), axis=(1, 2))
            distances = jnp.mean(jnp.square(features[:, None] - means[None]), axis=-1)
            self.sow("intermediates", DISTANCES, distances)
        return super().__call__(hidden, context, watch)

    def builders(
        self, hidden: Float[Array, "B H W D"], context: Any
    ) -> Mapping[str, Callable[..., nn.Module]]:
        """Give the expert the pictures' tasks."""
        last = jnp.full(len(hidden), self.tasks - 1)
        task = (context.shared or {}).get(TASK, last)
        made = super().builders(hidden, context)
        return {name: partial(make, task=task) for name, make in made.items()}


@jax.custom_vjp
def pulled(own: Array, towards: Array, rate: Any) -> Array:
    """Return `own`, to whose gradient `rate` times the way from `towards` is added."""
    return own


def _forth(own: Array, towards: Array, rate: Any) -> tuple[Array, Any]:
    return own, rate * (own - towards)


def _back(pull: Array, slope: Array) -> tuple[Array, None, None]:
    return slope + pull, None, None


pulled.defvjp(_forth, _back)


@dataclass(frozen=True)
class Mos(Lora):
    """Tasks come one after another; each has an adapter that is merged with the earlier ones.

    A run trains the last task's adapter, on pictures of that task. When drawing, a picture starts
    with the last adapter; the features that it has then tell which task it is of, and it is drawn
    again with that one's adapter, until the answer stays the same.

    Equation: A_b <- (1 - m) A_b + m mean(A_1 ... A_(b-1)) in every step, here as a term of the
        gradient, merge (A_b - mean); for plain descent at rate r this is m = r merge. Drawing: task
        <- argmin_t |f(x; A_task) - mean_t|^2, from the last task on, at most `refine` times; f is
        the mean over the pixels of what the last cross-attention reads.
    Source: MOS, Model Surgery (arXiv 2412.09441): the merging after each step from a copy of its
        code, the retrieval from the abstract.
    Left out: classes and their classifier: a task is what a run was trained on, and its feature the
        mean over all noise levels. Merging in the weights, which a variant does not write.

    Attributes:
        tasks: how many there are, with the one that is trained.
        earlier: folder of the finished run of the tasks before it; "" for the first. It is read
            when a training starts.
        merge: weight of the pull towards the earlier adapters, at least 0.
        refine: how many further passes of the U-Net drawing may make to find the task.
    """

    tasks: int = 1
    earlier: str = ""
    merge: float = 0.01
    refine: int = 3

    def __post_init__(self) -> None:
        """Refuse tasks without their adapters."""
        super().__post_init__()
        require_count("tasks", self.tasks)
        fits = bool(self.earlier) == (self.tasks > 1)
        require(fits, "earlier", self.earlier, f"the run of the tasks before tasks={self.tasks}")
        require(self.merge >= 0, "merge", self.merge, "0 or more")
        require(self.refine >= 0, "refine", self.refine, "0 or more")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        sizes = {"tasks": self.tasks, "rank": self.rank, "scale": self.scale}
        return {"personalized": partial(TaskExpert, **sizes)}

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return the builder of attention layers."""
        parts = {"router": self.router(method), "experts": partial(self.experts, method)}
        return partial(TaskMixture, attend=attend, tasks=self.tasks, **parts)

    def start(self, added: Flat, prior: Flat) -> Flat:
        """Return the adapters and the mean features of the earlier tasks."""
        found = super().start(added, prior)
        if not self.earlier:
            return found
        before = {"rank": self.rank, "scale": self.scale, "tasks": self.tasks - 1}
        _, weights = read_run(self.earlier, Mos, **before)
        keys = {path: ".".join(("unet", *path)) for path in added}
        return found | {path: weights[key] for path, key in keys.items() if not self.learns(key)}

    def learns(self, path: str) -> bool:
        """Tell whether a weight learns: what belongs to an earlier task does not."""
        task = _TASK.search(path)
        return task is None or int(task[1]) == self.tasks

    def weights(self, params: Params, moment: Moment) -> Params:
        """Pull the adapter that is trained towards the mean of the earlier ones."""
        if moment.keys is None or self.tasks == 1:
            return params
        flat = flatten_dict(params["unet"])
        own = f"{TASK}{self.tasks}."
        for path in [path for path in flat if path[-2].startswith(own)]:
            earlier = [
                flat[*path[:-2], path[-2].replace(own, f"{TASK}{number}.", 1), path[-1]]
                for number in range(1, self.tasks)
            ]
            flat[path] = pulled(flat[path], sum(earlier) / len(earlier), self.merge)
        return {**params, "unet": unflatten_dict(flat)}

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return the distance of the pictures from their task's mean, which learns by it alone."""
        return {"means": jnp.mean(_distances(forward.seen)[:, -1])}

    def predict(self, run: Run, context: Any) -> tuple[Array, Observations]:
        """Predict; when drawing, again until a picture's features are of the task it has."""
        if context.keys is not None or self.tasks == 1:
            return run(context)

        def draw(task: Int[Array, " B"]) -> tuple[Array, Observations]:
            return run(context._replace(shared={TASK: task}))

        def again(state: Any) -> Any:
            passes, _, task, _ = state
            drawn = draw(task)
            return passes + 1, task, jnp.argmin(_distances(drawn[1]), axis=-1), drawn

        def unsettled(state: Any) -> Array:
            passes, task, found, _ = state
            return (passes == 0) | ((passes <= self.refine) & jnp.any(task != found))

        last = jnp.full(len(context.tokens), self.tasks - 1)
        nothing = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(draw, last)
        )
        return jax.lax.while_loop(unsettled, again, (0, last, last, nothing))[3]


def _distances(seen: Observations) -> Float[Array, "B tasks"]:
    return next(value for path, value in seen.extra.items() if path.endswith(f".{DISTANCES}"))
