"""What a compiled program sends between devices, read from its text.

Knows no mesh: which of them are wanted is for a test or a plan to say.
"""

import math
import re
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_CALL = re.compile(rf"= (\(?[^=]*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]+[a-z0-9]*|pred)\[([0-9,]*)\]")
_COMMENT = re.compile(r"/\*.*?\*/")
_NAME = re.compile(r'op_name="([^"]*)"')


ArrayTypes = tuple[tuple[str, tuple[int, ...]], ...]  # dtype as XLA names it, and shape


@dataclass(frozen=True)
class Collective:
    """One message between devices.

    Attributes:
        kind: one of KINDS.
        arrays: (dtype, shape) of each result, as one device holds it.
        name: of the operation that it comes from; the compiler may have joined several.
    """

    kind: str
    arrays: ArrayTypes
    name: str

    @property
    def numbers(self) -> int:
        """How many there are in its arrays."""
        return sum(math.prod(shape) for _, shape in self.arrays)

    @property
    def bytes(self) -> int:
        """How much they take."""
        return sum(array_bytes(dtype, shape) for dtype, shape in self.arrays)


def collectives(text: str) -> list[Collective]:
    """List the collectives of a program; one in a loop's body stands once.

    A TPU program writes a reduce-scatter as a fusion of that name around an all-reduce.

    Args:
        text: `compiled.as_text()`.
    """
    found, scattering = [], False
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")):  # a computation begins
            scattering = line.startswith("%all-reduce-scatter")
        # The text of a large program is long: few of its lines are looked at closely.
        elif any(kind in line for kind in KINDS) and (call := _CALL.search(_COMMENT.sub("", line))):
            name = _NAME.search(line)
            kind = "reduce-scatter" if scattering else call[2]
            arrays = _results(call[2] + (call[3] or ""), array_types(call[1]))
            found.append(Collective(kind, arrays, name[1] if name else ""))
    return found


def array_types(text: str) -> ArrayTypes:
    """Read a type, an array's or a tuple's: the dtype and shape of each array."""
    return tuple(
        (dtype, tuple(int(size) for size in sizes.split(",") if size))
        for dtype, sizes in _ARRAY.findall(text)
    )


def array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Say how much an array takes, by XLA's name of its dtype."""
    bits = 8 if dtype == "pred" else int(re.match(r"[a-z]+(\d+)", dtype)[1])
    return math.prod(shape) * bits // 8


def _results(operation: str, arrays: ArrayTypes) -> ArrayTypes:
    """Leave out the operands that some asynchronous operations list before their results."""
    if operation == "all-gather-start":
        return arrays[len(arrays) // 2 :]
    return arrays[1:2] if operation == "collective-permute-start" else arrays
