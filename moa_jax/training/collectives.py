"""What a compiled program sends between devices, read from its text.

Knows no mesh: which of them are wanted is for a test or a plan to say.
"""

import math
import re
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_CALL = re.compile(rf"= (\(?[^=]*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]+[a-z0-9]*|pred)\[([0-9,]*)\]")
_NAME = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Collective:
    """One message between devices.

    Attributes:
        kind: one of KINDS.
        arrays: (dtype, shape) of each result, as one device holds it. An asynchronous one may list
            its operands before them.
        name: of the operation that it comes from; the compiler may have joined several.
    """

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    name: str

    @property
    def numbers(self) -> int:
        """How many there are in its arrays."""
        return sum(math.prod(shape) for _, shape in self.arrays)


def collectives(text: str) -> list[Collective]:
    """List the collectives of a program; one in a loop's body stands once.

    Args:
        text: `compiled.as_text()`.
    """
    found = []
    for line in text.splitlines():
        if call := _CALL.search(re.sub(r"/\*.*?\*/", "", line)):
            name = _NAME.search(line)
            arrays = (
                (dtype, tuple(int(size) for size in sizes.split(",") if size))
                for dtype, sizes in _ARRAY.findall(call[1])
            )
            found.append(Collective(call[2], tuple(arrays), name[1] if name else ""))
    return found
