"""What a compiled TPU program moves between the chip and its memory (HBM).

The compiler's own count includes what stays in the chip's vector memory, and counts a loop as one
turn. Here each operation reads its operands once and writes its results once, as far as these lie
in HBM. Where it only slices an array, or changes it in place, only the slice counts. Operations
inside a fusion pass nothing to each other through memory.
"""

import re
from collections.abc import Iterable, Iterator

from moa_jax.planning.hlo import HBM, Computation, HloArray, Module, Operation

# These only name, group or await arrays; other operations move them.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "opt-barrier partition-id replica-id copy-done slice-done async-start async-update async-done "
    "all-gather-done all-reduce-done collective-permute-done send-done recv-done".split()
)
_FREE_CALL = '"ConcatBitcast"'  # its operands lie side by side already
_SLICES = frozenset(("slice", "dynamic-slice", "gather"))
_ALIASED = re.compile(r"\{(\d*)\}: \((\d+), \{")


def memory_traffic(module: Module) -> int:
    """Count the bytes that one run of the program moves on one device."""
    return sum(moved for _, _, moved in moves(module))


def moves(module: Module) -> Iterator[tuple[str, Operation, int]]:
    """List the operations that move something: the computation, the operation, bytes of a run."""
    traffic = _Traffic(module)
    for name, turns in module.scheduled.items():
        for op in module.computations[name].values():
            if moved := turns * traffic.of(op, module.computations[name]):
                yield name, op, moved


class _Traffic:
    """Counts operation by operation, and remembers how much fused computations read."""

    def __init__(self, module: Module) -> None:
        self._computations = module.computations
        self._taken: dict[tuple[str, int], int | None] = {}

    def of(self, op: Operation, within: Computation) -> int:
        """Count the bytes that an operation outside of fusions moves."""
        if op.kind in _FREE or _FREE_CALL in op.rest:
            return 0
        operands = [within[name].arrays for name in op.operands]
        if op.kind == "fusion":
            return self._fusion(op, operands)
        if op.kind == "copy-start":  # its results: the copy, the original, a mark
            return _in_hbm(operands[0]) + _in_hbm(op.arrays[:1])
        if op.kind in _SLICES or op.kind == "slice-start":
            # The results of slice-start: the original, the slice, a mark.
            part = op.arrays[1:2] if op.kind == "slice-start" else op.arrays
            return min(_bytes(part), _in_hbm(operands[0])) + _in_hbm(part)
        if op.kind == "dynamic-update-slice":  # changes its first operand in place
            return _in_hbm(operands[1]) + min(_bytes(operands[1]), _in_hbm(op.arrays))
        return _in_hbm(op.arrays) + sum(map(_in_hbm, operands))

    def _fusion(self, op: Operation, operands: list[tuple[HloArray, ...]]) -> int:
        fused = op.called("calls")[0]
        aliased = _aliased(op.rest)
        total = 0
        for place, arrays in enumerate(operands):
            if place not in aliased.values() and (whole := _in_hbm(arrays)):
                part = self._parameter(fused, place)
                total += whole if part is None else min(part, whole)
        written = _in_hbm(array for place, array in enumerate(op.arrays) if place not in aliased)
        part = self._changed(fused)
        return total + (written if part is None else min(part, _in_hbm(op.arrays)))

    def _parameter(self, fused: str, place: int) -> int | None:
        """Sum the slices that a fused computation reads of a parameter; None means all of it."""
        if (fused, place) not in self._taken:
            ops = self._computations[fused]
            name = next(
                op.name
                for op in ops.values()
                if op.kind == "parameter" and op.rest.startswith(f"{place})")
            )
            self._taken[fused, place] = self._slices(name, ops)
        return self._taken[fused, place]

    def _slices(self, name: str, ops: Computation) -> int | None:
        parts = [self._slice(name, user, ops) for user in ops.values() if name in user.operands]
        return None if None in parts else sum(parts)

    def _slice(self, name: str, user: Operation, ops: Computation) -> int | None:
        """Count the bytes that one operation reads of a value; None means all of them."""
        if user.kind == "bitcast" and not user.root:
            return self._slices(user.name, ops)
        if user.kind == "fusion":
            places = [place for place, each in enumerate(user.operands) if each == name]
            parts = [self._parameter(user.called("calls")[0], place) for place in places]
            return None if None in parts else sum(parts)
        if name in user.operands[1:]:
            return None
        if user.kind == "dynamic-update-slice":  # overwrites a part and reads nothing
            return 0
        return _bytes(user.arrays) if user.kind in _SLICES else None

    def _changed(self, fused: str) -> int | None:
        """Give the bytes of the slice that a fusion changes in place; None if it changes none."""
        ops = self._computations[fused]
        result = next(op for op in ops.values() if op.root)
        while result.kind == "bitcast":
            result = ops[result.operands[0]]
        if result.kind == "fusion":
            return self._changed(result.called("calls")[0])
        if result.kind == "dynamic-update-slice":
            return _bytes(ops[result.operands[1]].arrays)
        return None


def _aliased(rest: str) -> dict[int, int]:
    """Map each result that takes over an operand's memory to that operand, both by place."""
    listed = rest.partition("output_to_operand_aliasing=")[2].partition("calls=")[0]
    return {int(result or 0): int(operand) for result, operand in _ALIASED.findall(listed)}


def _in_hbm(arrays: Iterable[HloArray]) -> int:
    return _bytes(array for array in arrays if array.space == HBM)


def _bytes(arrays: Iterable[HloArray]) -> int:
    return sum(array.bytes for array in arrays)
