"""What kept plans bound: seconds by resource, which of them rules, and how far more chips help.

These are pure functions of plans.json. A plan gives the work of one chip, and the chip's peaks turn
it into seconds. There is a bound for each compiled plan and for nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moa_jax.training.chips import CHIPS, GIB, Chip

HALF = (
    0.5  # of its links has the corner of a mesh that does not wrap around: one of two on each axis
)


@dataclass(frozen=True)
class Bound:
    """What one run of a compiled program takes at least, on each of its chips.

    Attributes:
        topology: as `train.py --plan` takes it.
        preset: the mesh's; for a drawing, which runs on one chip, its title.
        chips: number of chips.
        images: pictures of one run, on all chips together.
        remat: whether the step recomputes its blocks.
        attention: what was asked for; see `benchmarks.scale.Job`.
        fits: whether the compiler found room; if not, the times are 0.
        memory: GiB that a chip needs, without the machine code.
        limit: GiB that a chip has.
        times: seconds that arithmetic, memory traffic and links each take at least.
    """

    topology: str
    preset: str
    chips: int
    images: int
    remat: bool
    attention: str
    fits: bool
    memory: float
    limit: float
    times: Mapping[str, float]

    @property
    def kind(self) -> str:
        """Kind of the chips, e.g. "v5e"."""
        return self.topology.partition(":")[0]

    @property
    def per_chip(self) -> float:
        """Pictures of one run on each chip."""
        return self.images / self.chips

    def limits(self, links: float = 1.0) -> dict[str, float]:
        """Give the seconds of each resource.

        Args:
            links: share of a chip's links that work.
        """
        return {**self.times, "links": self.times["links"] / links}

    def seconds(self, links: float = 1.0) -> float:
        """Give the seconds that one run takes at least; see `limits`."""
        return max(self.limits(links).values())

    def rules(self, links: float = 1.0) -> str:
        """Name the resource that takes longest; see `limits`."""
        times = self.limits(links)
        return max(times, key=times.__getitem__)

    def rate(self, links: float = 1.0) -> float:
        """Give the pictures that a chip makes in a second at most; see `limits`."""
        return self.per_chip / self.seconds(links)

    def chip_hours(self, pictures: float, links: float = 1.0) -> float:
        """Give the hours of one chip that so many pictures take at least; see `limits`."""
        return pictures / self.rate(links) / 3600


def bound(plan: Mapping[str, Any]) -> Bound:
    """Read a plan as plans.json keeps it: what `--plan-json` writes, and what it was made for.

    A message counts once, by its results, and uses all links of the chip, as in
    `moa_jax.planning.usage.Usage.times`.
    """
    chip = _chip(plan["chip"])
    moved = sum(size for _, size in plan["collectives"].values())
    times = {
        "arithmetic": (plan["flops"] + plan["splash_flops"]) / chip.flops,
        "memory": plan["bytes"] / chip.memory_bandwidth,
        "links": moved / chip.link_bandwidth,
    }
    return Bound(
        plan["topology"],
        plan["title"],
        plan["devices"],
        plan["images"],
        plan["remat"],
        plan["attention"],
        plan["fits"],
        sum(plan["memory"].values()) / GIB,
        plan["limit"] / GIB,
        times,
    )


def _chip(name: str) -> Chip:
    return next(chip for chip in CHIPS.values() if chip.name == name)


@dataclass(frozen=True)
class Scaling:
    """One way to use more chips: the compiled steps, and what a chip's pictures are relative to.

    Attributes:
        name: "weak" or "strong".
        bounds: by kind of chip, small meshes first.
        base: pictures a second of one chip that count as all, by the kind of chip. A kind is
            missing if no plan of it can be the base.
    """

    name: str
    bounds: Sequence[Bound]
    base: Mapping[str, float]

    def efficiency(self, of: Bound, links: float = 1.0) -> float | None:
        """Give the share of the base's pictures that a chip makes at most; see `Bound.limits`."""
        if of.kind not in self.base or not of.fits:
            return None
        return of.rate(links) / self.base[of.kind]

    def largest(self, kind: str, share: float, links: float = 1.0) -> Bound | None:
        """Give the largest mesh of a kind of chip whose efficiency is at least a share."""
        found = [each for each in self.bounds if each.kind == kind]
        found = [each for each in found if (self.efficiency(each, links) or 0.0) >= share]
        return max(found, key=lambda each: (each.chips, each.rate(links)), default=None)


def weak(steps: Sequence[Bound], per_chip: int) -> Scaling:
    """Compare meshes on which each chip has so many pictures with one chip.

    One chip's bound is that of the smallest mesh as if its messages took no time; a mesh of one
    chip sends none.
    """
    chosen = [each for each in steps if each.per_chip == per_chip and not each.remat]
    return _scaling("weak", chosen, float("inf"))


def strong(steps: Sequence[Bound], batch: int) -> Scaling:
    """Compare meshes that share so many pictures with the smallest that recomputes nothing."""
    return _scaling("strong", [each for each in steps if each.images == batch], 1.0)


def _scaling(name: str, chosen: Sequence[Bound], links: float) -> Scaling:
    ordered = sorted(chosen, key=lambda each: (each.kind, each.chips, each.remat, each.preset))
    base: dict[str, float] = {}
    for each in ordered:
        # A step that recomputes its blocks is another program, of more work.
        if each.fits and not each.remat:
            base.setdefault(each.kind, each.rate(links))
    return Scaling(name, ordered, base)
