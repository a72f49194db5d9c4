"""The neighbours that do not change what a layer computes: they pack, place, move or explain it.

They are functions and classes that work on a trained MoA, or on any layer of experts. Names alone
stand here: nothing is imported before it is used.
"""

from typing import NamedTuple


class Tool(NamedTuple):
    """A neighbour of MoA that is no variant of it.

    Attributes:
        short: what its authors call it.
        title: of the paper.
        code: the class or function that is its idea, as `package.module:name`.
        test: the test of the property that fails if the idea is wrong.
    """

    short: str
    title: str
    code: str
    test: str


BESIDE: dict[str, tuple[Tool, ...]] = {
    "compression": (),
    "attribution": (),
    "placement": (),
    "overlap": (),
}
