"""One training step as a pure function of (state, frozen parameters, batch).

The objective that it minimises is passed in; MoA's is in `objective.py`. Every random draw of step
n for row i of the batch comes from `fold_in(key, n)`, split over the rows. So a resumed run, and a
run with other micro-batches, draw the same numbers. A step uses no mesh, no file and no clock.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from moa_jax.config import Config
from moa_jax.method.trained import partition

Batch = Mapping[str, Array]  # every array has the same number of rows
Numbers = dict[str, Float[Array, ""]]
# (trained, frozen, batch, a key for each row) -> (loss, numbers to log: means over the rows).
# "loss/total" among the numbers is the loss; other terms are named "loss/..." too.
Objective = Callable[[Any, Any, Batch, Array], tuple[Array, Numbers]]


@flax.struct.dataclass
class TrainState:
    """What a step changes; everything that a checkpoint must hold.

    Fields are not typed as arrays, because trees of the same structure hold the shardings.

    Attributes:
        step: number of steps so far, an int32.
        trained: the parameters that learn, in float32.
        optimizer: state of the optimizer.
        ema: moving average of `trained`, or None.
        key: data of the steps' random key, `stream(seed, "steps")`; never changes.
    """

    step: Any
    trained: Any
    optimizer: Any
    ema: Any
    key: Any

    @property
    def averaged(self) -> Any:
        """The trained parameters to draw pictures with: their moving average if there is one."""
        return self.trained if self.ema is None else self.ema


def stream(seed: int, name: str) -> Key[Array, ""]:
    """Give the random key for one use in a run, so that two uses never draw the same numbers.

    Args:
        seed: the run's seed.
        name: name of the use: "init", "data", "steps", "probe" or "preview".
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def initial_state(
    params: Any, mask: Any, optimizer: optax.GradientTransformation, config: Config
) -> tuple[TrainState, Any]:
    """Split the parameters and start a run with them.

    Args:
        mask: tree of bool, true where a leaf learns.

    Returns:
        (state, frozen parameters). The state holds copies, which a step may overwrite.
    """
    trained, frozen = partition(params, mask)
    trained = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), trained)
    ema = None if config.optimizer.ema_decay is None else jax.tree.map(jnp.copy, trained)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        trained=trained,
        optimizer=optimizer.init(trained),
        ema=ema,
        key=jax.random.key_data(stream(config.train.seed, "steps")),
    )
    return state, frozen


def make_train_step(
    objective: Objective,
    config: Config,
    optimizer: optax.GradientTransformation,
    summarize: Callable[[Numbers], Numbers] | None = None,
) -> Callable[[TrainState, Any, Batch], tuple[TrainState, Numbers]]:
    """Build the step: `state, metrics = train_step(state, frozen, batch)`.

    An update whose loss or gradient is not finite is not applied (weights, optimizer and EMA stay);
    the metrics tell which term it was, and the loop stops.

    Args:
        objective: what is minimised, and the numbers to log.
        summarize: finishes the numbers once they are means over all micro-batches.
    """

    def train_step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Numbers]:
        step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        rows = len(jax.tree.leaves(dict(batch))[0])
        keys = jax.random.split(step_key, rows)
        # For objectives that change in the course of a run; it costs the others nothing.
        batch = {**batch, "progress": jnp.full(rows, state.step / config.train.steps, jnp.float32)}
        (_, numbers), gradient = accumulate(
            jax.value_and_grad(objective, has_aux=True),
            config.optimizer.accumulation,
            state.trained,
            frozen,
            batch,
            keys,
        )
        updates, moments = optimizer.update(gradient, state.optimizer, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(norm) & jnp.isfinite(numbers["loss/total"])
        new = state.replace(
            step=state.step + 1,
            trained=_choose(finite, trained, state.trained),
            optimizer=_choose(finite, moments, state.optimizer),
        )
        if state.ema is not None:
            ema = update_ema(state.ema, trained, config.optimizer.ema_decay, state.step)
            new = new.replace(ema=_choose(finite, ema, state.ema))
        metrics = summarize(numbers) if summarize else numbers
        return new, metrics | {"grad_norm": norm, "update_norm": optax.tree.norm(updates)}

    return train_step


def update_ema(average: Any, trained: Any, decay: float, step: Int[Array, ""]) -> Any:
    """Move the average towards the trained parameters; a young average moves faster.

    Args:
        decay: share of the old average that stays; (1 + step) / (10 + step) while that is less.
    """
    # Without this, the average of a short run would keep the untrained weights.
    warm = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(trained, average, 1.0 - warm)


def accumulate(
    value_and_grad: Callable[..., Any],
    micro_batches: int,
    trained: Any,
    frozen: Any,
    batch: Batch,
    keys: Key[Array, " B"],
) -> Any:
    """Average `value_and_grad` over equal parts of the batch, one part at a time.

    Every `micro_batches`-th picture goes into the same part, so a batch that is split over devices
    stays where it is.
    """
    if micro_batches == 1:
        return value_and_grad(trained, frozen, batch, keys)

    def split(array: Array) -> Array:
        return array.reshape(-1, micro_batches, *array.shape[1:]).swapaxes(0, 1)

    parts = jax.tree.map(split, (dict(batch), keys))

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, value_and_grad(trained, frozen, *part)), None

    first = jax.tree.map(lambda array: array[0], parts)
    shapes = jax.eval_shape(value_and_grad, trained, frozen, *first)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda array: array / micro_batches, total)


def _choose(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda one, other: jnp.where(condition, one, other), new, old)
