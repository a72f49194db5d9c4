"""A layer of experts whose weights are spread over devices, and three ways to bring tokens to them.

The devices stand along the mesh axis `expert`. Each of them holds the same number of experts, and
tokens of its own. A token is a vector, such as a pixel's; an expert is any function of tokens, such
as a feed-forward network. The router is small, so every device has it.

Buffers have fixed sizes, because a compiled program's shapes are fixed: a token that finds its
expert's buffer full is dropped, and the layer gives zero for it. MoA itself has two experts, and
needs none of this; a layer with many does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from moa_jax.errors import InputError

AXIS = "expert"

Apply = Callable[[Any, Float[Array, "P D"]], Float[Array, "P D"]]  # an expert, of its weights
Layer = dict[str, Any]  # "router" as "D E", and "experts": a tree of leaves "E ..."


def choose(logits: Float[Array, "T E"], keep: int) -> tuple[Int[Array, "T k"], Float[Array, "T k"]]:
    """Choose the experts of every token, and their weights.

    Returns:
        The `keep` best experts, and their softmax: of one alone among all experts, as the router
        would not learn otherwise; of several among themselves.
    """
    shares = jax.nn.softmax(logits, axis=-1)
    weights, choice = jax.lax.top_k(shares, keep)
    return choice, weights / jnp.sum(weights, axis=-1, keepdims=True) if keep > 1 else weights


def queue(choice: Int[Array, "T k"], experts: int, order: Int[Array, " T"]) -> Int[Array, "T k"]:
    """Number the tokens that want an expert, for every expert from 0.

    Args:
        order: the tokens, those first that are served first. All first choices are served before
            the second ones.
    """
    served = choice[order].T.reshape(-1)  # all first choices, then all second ones
    wanted = jax.nn.one_hot(served, experts, dtype=jnp.int32)
    numbers = jnp.sum((jnp.cumsum(wanted, axis=0) - 1) * wanted, axis=-1)
    return jnp.zeros_like(choice).at[order].set(numbers.reshape(choice.shape[::-1]).T)


def fill(
    tokens: Float[Array, "T D"], choice: Int[Array, "T k"], places: Int[Array, "T k"], shape: Any
) -> Float[Array, "E C D"]:
    """Put every token into the buffers of its experts; what lies beyond a buffer is dropped.

    Args:
        shape: experts, and places in the buffer of each.
    """
    buffers = jnp.zeros((*shape, tokens.shape[-1]), tokens.dtype)
    return buffers.at[choice, places].set(tokens[:, None], mode="drop")


def read(
    buffers: Float[Array, "E C D"],
    choice: Int[Array, "T k"],
    places: Int[Array, "T k"],
    weights: Float[Array, "T k"],
) -> Float[Array, "T D"]:
    """Sum what a token's experts have made of it; the dropped count as zero."""
    found = buffers.at[choice, places].get(mode="fill", fill_value=0)
    return jnp.sum(weights[..., None].astype(found.dtype) * found, axis=1)


def exchange(buffers: Float[Array, "n e C D"]) -> Float[Array, "n e C D"]:
    """Send buffer i to device i, and get what device i has for this one; its own inverse."""
    return jax.lax.all_to_all(buffers, AXIS, 0, 0)


def serve(apply: Apply, weights: Any, buffers: Float[Array, "n e C D"]) -> Float[Array, "n e C D"]:
    """Let each of e experts transform its tokens, which n devices have sent."""
    return jax.vmap(jax.vmap(apply), in_axes=(None, 0))(weights, buffers)


@dataclass(frozen=True)
class ExpertParallel:
    """Experts are spread over devices, and a full buffer drops tokens by lot, not by their place.

    Equation: y_t = sum over its chosen e of w_te E_e(x_t), if u_t is among the C smallest that want
        e on this device, u uniform; dispatch and combine are one all-to-all each.
    Source: Z-code M3, Scalable and Efficient MoE Training for Multitask Multilingual Models, from
        DeepSpeed's code: random token selection; see `aggregate` and `prune` for two other parts.
    Left out: the joint split of experts' weights over data, tensors and a host's memory; training
        on languages; jitter of the router.

    Attributes:
        apply: computes one expert, of its weights and tokens "P D".
        keep: how many experts a token gets.
        capacity: places in a buffer, over the tokens that each expert would get if all were used
            alike.
        by_lot: serve tokens in random order, else in their own.
    """

    apply: Apply
    keep: int = 1
    capacity: float = 2.0
    by_lot: bool = True

    def __post_init__(self) -> None:
        """Refuse buffers that hold nothing."""
        if self.keep < 1 or not self.capacity > 0:
            raise InputError(f"keep={self.keep}, capacity={self.capacity}: both must be above 0")

    def __call__(
        self, layer: Layer, tokens: Float[Array, "T D"], key: Array | None = None
    ) -> Float[Array, "T D"]:
        """Transform the tokens of one device; call it through `spread`.

        Args:
            layer: with the experts of this device alone.
            key: draws the order of service; None serves tokens in their own order.
        """
        experts = layer["router"].shape[-1]
        logits = tokens.astype(jnp.float32) @ layer["router"]
        choice, weights = choose(logits, self.keep)
        order = jnp.arange(len(tokens))
        if self.by_lot and key is not None:
            order = jax.random.permutation(jax.random.fold_in(key, jax.lax.axis_index(AXIS)), order)
        places = queue(choice, experts, order)
        size = math.ceil(self.capacity * self.keep * len(tokens) / experts)
        buffers = fill(tokens, choice, places, (experts, size))
        load = jnp.sum(jax.nn.one_hot(choice, experts, dtype=jnp.int32), axis=(0, 1))
        return read(self.compute(layer["experts"], buffers, load), choice, places, weights)

    def compute(
        self, weights: Any, buffers: Float[Array, "E C D"], load: Int[Array, " E"]
    ) -> Float[Array, "E C D"]:
        """Let all experts transform the buffers of this device.

        Args:
            weights: of this device's experts.
            load: how many tokens of this device want each expert.
        """
        devices = jax.lax.axis_size(AXIS)
        parts = buffers.reshape(devices, -1, *buffers.shape[1:])
        return exchange(serve(self.apply, weights, exchange(parts))).reshape(buffers.shape)


def spread(layer: ExpertParallel, mesh: Mesh) -> Callable[..., Float[Array, "T D"]]:
    """Make a function of the whole layer and all tokens, computed over the devices of a mesh.

    Args:
        mesh: has the axis `expert`; it divides the number of experts and that of tokens.
    """
    if AXIS not in mesh.shape:
        raise InputError(f"mesh axes {mesh.axis_names}: one must be called {AXIS!r}")
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    places = ({"router": whole, "experts": split}, split, whole)
    run = jax.shard_map(layer, mesh=mesh, in_specs=places, out_specs=split)
    return lambda given, tokens, key=None: run(given, tokens, key)


@dataclass(frozen=True)
class Hecate(ExpertParallel):
    """Experts, gradients and optimizer stay with their owners; the hottest visit all devices.

    Every device lends its `hot` most wanted experts to all others for one step, by one all-gather.
    Their tokens stay where they are, and their gradients come home by one reduce-scatter. Only the
    tokens of the other experts travel, in smaller buffers. With equal buffers nothing would be won,
    because what is sent has a fixed size.

    Equation: y = y of `ExpertParallel`; sent are hot / (E / n) of all weights, and the tokens of
        E - n hot experts with `tail` of the places.
    Source: Hecate (fully sharded sparse data parallelism), from the abstract and a summary: sparse
        all-gather and reduce-scatter.
    Left out: experts of any owner: here each device lends equally many, so that shapes are fixed;
        the change of owners between steps; keeping what was gathered for the backward pass or not.

    Attributes:
        hot: how many experts each device lends, fewer than it has.
        tail: places in the buffer of an expert that stays, over those of one that visits.
    """

    hot: int = 1
    tail: float = 0.5

    def __post_init__(self) -> None:
        """Refuse buffers that hold nothing, or more than the others."""
        super().__post_init__()
        if not 0 < self.tail <= 1:
            raise InputError(f"tail={self.tail}: must be in (0, 1]")

    def compute(
        self, weights: Any, buffers: Float[Array, "E C D"], load: Int[Array, " E"]
    ) -> Float[Array, "E C D"]:
        """Compute the hot experts here, and the others where they live."""
        devices, (experts, size, width) = jax.lax.axis_size(AXIS), buffers.shape
        each = experts // devices
        if not 0 < self.hot < each:
            raise InputError(f"hot={self.hot}: must be 1 to {each - 1}: a device has {each}")
        # How often an expert is wanted on all devices decides; its owner must know the same order.
        wanted = jax.lax.psum(load, AXIS).reshape(devices, each)
        order = jnp.argsort(-wanted, axis=-1)
        firsts = each * jnp.arange(devices)[:, None]
        mine = order[jax.lax.axis_index(AXIS)]
        lent, kept = (
            jax.tree.map(lambda leaf, part=part: leaf[part], weights)
            for part in (mine[: self.hot], mine[self.hot :])
        )
        visiting = jax.tree.map(partial(jax.lax.all_gather, axis_name=AXIS, tiled=True), lent)
        near, far = (firsts + order[:, : self.hot]).reshape(-1), firsts + order[:, self.hot :]
        there = buffers[far, : math.ceil(self.tail * size)]
        there = exchange(serve(self.apply, kept, exchange(there)))
        outputs = jnp.zeros((experts, size, width), there.dtype)
        outputs = outputs.at[near].set(serve(self.apply, visiting, buffers[near][None])[0])
        return outputs.at[far, : there.shape[2]].set(there)


@dataclass(frozen=True)
class Comet(ExpertParallel):
    """The exchange is cut into pieces, so that one piece travels while another is computed.

    The tokens are sorted by the device that they come from: its own first, for which nothing has to
    arrive. Piece j comes from the device j places before, and goes back as soon as it is computed.
    No piece depends on another, so the compiler is free to overlap them: compiled for eight v5e,
    with 8192 tokens of width 512 and 16 experts, 12 of the 14 shifts travel beside products.

    Equation: y = y of `ExpertParallel`; the all-to-all is n - 1 shifts, of j = 1 ... n - 1 places.
    Source: Comet, from the abstract: split the shared tensor along tokens, local work first.
    Left out: thread blocks that are shared out between copying and computing, which a TPU does not
        have: its links work beside its cores. Pieces smaller than a device's: the TPU compiler
        overlaps shifts by itself, and cut all-to-alls only if it is told to.
    """

    def compute(
        self, weights: Any, buffers: Float[Array, "E C D"], load: Int[Array, " E"]
    ) -> Float[Array, "E C D"]:
        """Send, compute and return one piece after the other."""
        devices, here = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
        parts = buffers.reshape(devices, -1, *buffers.shape[1:])

        def shift(part: Array, places: int) -> Array:
            pairs = [(device, (device + places) % devices) for device in range(devices)]
            return jax.lax.ppermute(part, AXIS, pairs) if places else part

        def piece(places: int) -> Array:
            sent = jax.lax.dynamic_index_in_dim(parts, (here + places) % devices)
            return shift(serve(self.apply, weights, shift(sent, places)), -places)

        pieces = jnp.concatenate([piece(places) for places in range(devices)])
        return pieces[(jnp.arange(devices) - here) % devices].reshape(buffers.shape)


def aggregate(one: Layer, other: Layer) -> Layer:
    """Join the experts of two trained layers into one layer; then train on.

    Where both routers are equal, it is the mean of both layers as long as every expert is kept.

    Source: Z-code M3, aggregation of experts, as described for DeepSpeed.
    """
    router = jnp.concatenate([one["router"], other["router"]], axis=1)
    experts = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves), one["experts"], other["experts"]
    )
    return {"router": router, "experts": experts}


def prune(layer: Layer, used: Int[Array, " E"], keep: int) -> Layer:
    """Keep the experts that were used most, in their order; then train on.

    Source: Z-code M3, pruning of experts by their use, as described for DeepSpeed.

    Args:
        used: how many tokens chose each expert.

    Raises:
        InputError: there are not so many experts.
    """
    if not 0 < keep <= len(used):
        raise InputError(f"keep={keep}: must be 1 to {len(used)}, the number of experts")
    kept = jnp.sort(jax.lax.top_k(used, keep)[1])
    experts = jax.tree.map(lambda leaf: leaf[kept], layer["experts"])
    return {"router": layer["router"][:, kept], "experts": experts}
