"""Where a compiled program's memory traffic comes from: network, direction and kind of layer.

XLA keeps the path of modules that an operation was traced in. The copies that it adds have none:
what a copy is read for tells where it belongs, or else what it is a copy of.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from moa_jax.planning.hlo import Module, Operation
from moa_jax.planning.traffic import moves

Traffic = Mapping[str, Mapping[str, int]]  # bytes by network, and by kind of layer

STEPS = 8  # how far from a copy its origin is searched
REST = "rest"

_NAME = re.compile(r'op_name="([^"]*)"')
_NETWORK = re.compile(r"(transpose\()?jvp\((\w+)[.)]|(?:^|/)([A-Z]\w+)[./]")
# The first that a path has; names of modules as in moa_jax.backbone.
_KINDS = (
    ("self-attention", re.compile(r"\battn1\b|\bself_attn\b|\bmid_block\.attentions\.0/to_")),
    ("cross-attention", re.compile(r"\battn2\b")),
    ("feed-forward", re.compile(r"/ff/|\bmlp\.fc")),
    ("norms", re.compile(r"norm")),
    ("convolutions", re.compile(r"conv|proj_in|proj_out")),
)


def traffic_by_origin(module: Module) -> dict[str, dict[str, int]]:
    """Sum the bytes that a run moves on a device by where they come from.

    Returns:
        For each network, e.g. "UNet" or "UNet backward", and for "rest": bytes by what moves them,
        e.g. "self-attention"; both in falling order.
    """
    origins = Origins(module)

    def each() -> Iterable[tuple[Traffic, int]]:
        for computation, op, moved in moves(module):
            path = origins.of(computation, op)
            yield {network_of(path): {kind_of(path): moved}}, 1

    return add_traffic(each())


def add_traffic(parts: Iterable[tuple[Traffic, int]]) -> dict[str, dict[str, int]]:
    """Add up traffic, each part as often as told; networks and kinds in falling order."""
    found = defaultdict[str, dict[str, int]](dict)
    for traffic, runs in parts:
        for network, kinds in traffic.items():
            for kind, moved in kinds.items():
                found[network][kind] = found[network].get(kind, 0) + moved * runs
    return {
        network: dict(sorted(kinds.items(), key=lambda each: -each[1]))
        for network, kinds in sorted(found.items(), key=lambda each: -sum(each[1].values()))
    }


def network_of(path: str) -> str:
    """Name the network of an operation's path, and whether this is its backward pass."""
    if not (named := _NETWORK.search(path)):
        return REST
    return f"{named[2] or named[3]} backward" if named[1] else named[2] or named[3]


def kind_of(path: str) -> str:
    """Say what kind of layer an operation's path is in."""
    return next((kind for kind, pattern in _KINDS if pattern.search(path)), REST)


class Origins:
    """Finds the path of modules of an operation, of its own or of its neighbours."""

    def __init__(self, module: Module) -> None:
        """Prepare for the operations outside fusions."""
        self._computations = module.computations
        self._users: dict[str, Mapping[str, list[str]]] = {}
        # A computation of one asynchronous operation has its origin where it is started.
        self._starts = {
            called: (name, op)
            for name in module.scheduled
            for op in module.computations[name].values()
            if op.kind == "async-start"
            for called in op.called("calls")
        }

    def of(self, computation: str, op: Operation) -> str:
        """Give the path; empty if nothing tells it."""
        if computation in self._starts:
            computation, op = self._starts[computation]
        if named := _NAME.search(op.rest):
            return named[1]
        return self._search(computation, op, forward=True) or self._search(
            computation, op, forward=False
        )

    def _search(self, computation: str, op: Operation, forward: bool) -> str:
        ops, users = self._computations[computation], self._users_in(computation)
        reached = [op.name]
        for _ in range(STEPS):
            reached = [
                other
                for name in reached
                for other in (users[name] if forward else ops[name].operands)
            ]
            for name in reached:
                if named := _NAME.search(ops[name].rest):
                    return named[1]
        return ""

    def _users_in(self, computation: str) -> Mapping[str, list[str]]:
        if computation not in self._users:
            users = defaultdict[str, list[str]](list)
            for op in self._computations[computation].values():
                for name in op.operands:
                    users[name].append(op.name)
            self._users[computation] = users
        return self._users[computation]
