"""A compiled program's text as XLA writes it: its computations, their operations, their loops.

The text is read here because jaxlib cannot parse all that libtpu writes. No device is needed.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) .*\{$")
_OPERATION = re.compile(r"^  (ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)$")
_NAME = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations)="
    r"(%[\w.-]+|\{[^}]*\})"
)
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"\b([a-z]+[0-9]+[a-z0-9]*|pred)\[([0-9,]*)\](?:\{([^}]*)\})?")
_LAYOUT = re.compile(r"^([0-9,]*)(?::(?:T\(([0-9,]+)\))?.*?(?:S\((\d+)\))?)?$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')

HBM = 0  # a TPU's main memory; other spaces, e.g. 1 (vector memory), lie on the chip


@dataclass(frozen=True)
class HloArray:
    """An array: a result, or one member of a tuple.

    Attributes:
        dtype: as XLA names it.
        held: its shape in memory, where it is padded to complete tiles.
        space: number of the memory space that it lies in.
    """

    dtype: str
    shape: tuple[int, ...]
    held: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        """Bytes that it takes in memory, with padding."""
        return self._bytes(self.held)

    @property
    def content(self) -> int:
        """Bytes of its values, without padding."""
        return self._bytes(self.shape)

    def _bytes(self, shape: tuple[int, ...]) -> int:
        # A truth value takes a byte; other types have their bits in their name.
        bits = 8 if self.dtype == "pred" else int(re.match(r"[a-z]+(\d+)", self.dtype)[1])
        return math.prod(shape) * bits // 8


@dataclass(frozen=True)
class Operation:
    """One line of a computation.

    Attributes:
        type: type of the result, as written.
        kind: what it does: "fusion", "convolution", ...
        operands: names of the operations whose results it takes.
        rest: the line from the operands on.
        root: whether its result is that of the computation.
    """

    name: str
    type: str
    kind: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    @cached_property
    def arrays(self) -> tuple[HloArray, ...]:
        """The arrays of the result."""
        return tuple(_array(*found) for found in _ARRAY.findall(_COMMENT.sub("", self.type)))

    def called(self, *roles: str) -> list[str]:
        """List the computations that it calls in these roles, e.g. as its "body"."""
        found = _CALLED.findall(self.rest)
        return [name for role, names in found if role in roles for name in _NAME.findall(names)]


Computation = Mapping[str, Operation]  # by name, in the order they run


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
        computations: by name.
        entry: name of the computation that the program starts with.
    """

    computations: Mapping[str, Computation]
    entry: str

    @cached_property
    def turns(self) -> dict[str, int]:
        """How often each computation runs, including those inside fusions.

        Of what depends on a condition, that is what is done if the condition does not hold.
        """
        found: dict[str, int] = {}
        for name, turns, _ in self._walk(self.entry, 1):
            found[name] = found.get(name, 0) + turns
        return found

    @cached_property
    def scheduled(self) -> dict[str, int]:
        """How often each computation outside fusions runs; its operations use memory one by one."""
        found: dict[str, int] = {}
        for name, turns, fused in self._walk(self.entry, 1):
            if not fused:
                found[name] = found.get(name, 0) + turns
        return found

    @cached_property
    def endless(self) -> list[str]:
        """Loops for which the text does not tell the number of turns; each counts as one turn."""
        loops = (op for each in self.scheduled for op in self.computations[each].values())
        return [op.name for op in loops if op.kind == "while" and self._trips(op) is None]

    def _walk(self, name: str, turns: int, fused: bool = False) -> Iterator[tuple[str, int, bool]]:
        yield name, turns, fused
        for op in self.computations[name].values():
            if op.kind == "while":
                trips = self._trips(op) or 1  # unknown turns: see `endless`
                for each in op.called("body", "condition"):
                    yield from self._walk(each, turns * trips, fused)
            elif op.kind == "conditional":
                # Our conditions are exceptions. As branches, what they guard is listed second.
                for each in op.called("false_computation", "branch_computations")[:1]:
                    yield from self._walk(each, turns, fused)
            elif op.kind in ("fusion", "call") or op.kind.startswith("async-"):
                for each in op.called("calls", "to_apply"):
                    yield from self._walk(each, turns, fused or op.kind == "fusion")

    def _trips(self, loop: Operation) -> int | None:
        """Read how often a loop turns; None means that the text does not tell.

        JAX counts from zero to a constant in the loop's condition.
        """
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        numbers = set()
        for condition in loop.called("condition"):
            for name, _, _ in self._walk(condition, 1):
                for op in self.computations[name].values():
                    if op.kind == "constant" and op.type.startswith("s32[]"):
                        numbers.add(int(op.rest.split(")")[0]))
        # Of several constants the text does not tell which one ends the loop.
        return numbers.pop() if len(numbers) == 1 else None


def parse(text: str) -> Module:
    """Read a program from its text.

    Raises:
        ValueError: the text has no entry.
    """
    computations: dict[str, dict[str, Operation]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if match := _OPERATION.match(line):
            root, name, kind_of_result, kind, rest = match.groups()
            operands = tuple(_NAME.findall(rest.split(")", 1)[0]))
            current[name] = Operation(name, kind_of_result, kind, operands, rest, bool(root))
        elif match := _COMPUTATION.match(line):
            current = computations.setdefault(match[2], {})
            entry = match[2] if match[1] else entry
    if entry is None:
        raise ValueError("the text of a compiled program has no ENTRY")
    return Module(computations, entry)


def _array(dtype: str, sizes: str, layout: str) -> HloArray:
    """Read one array's type, e.g. bf16[8,77,320]{2,1,0:T(8,128)(2,1)S(1)}."""
    shape = tuple(int(size) for size in sizes.split(",") if size)
    order, tile, space = _LAYOUT.match(layout).groups()
    held = list(shape)
    # The layout lists first the axis whose neighbours lie side by side; a tile lists its size last.
    sides = reversed(tile.split(",")) if tile else ()
    for axis, size in zip((axis for axis in order.split(",") if axis), sides, strict=False):
        held[int(axis)] = -(-shape[int(axis)] // int(size)) * int(size)
    return HloArray(dtype, shape, tuple(held), int(space or HBM))
