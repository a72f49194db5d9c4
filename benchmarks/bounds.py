"""What kept plans bound: seconds by resource, which of them rules, and how far more chips help.

These are pure functions of plans.json. A plan gives the work of one chip, and the chip's peaks turn
it into seconds. There is a bound for each compiled plan and for nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moa_jax.training.chips import CHIPS, GIB, Chip

# The corner of a mesh that does not wrap around has one of two links along each axis.
CORNER = 0.5
# A sum over n chips sends 2 (n - 1) / n times its bytes from each, if only chips add up. Source:
# Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009.
SENT = {"all-reduce": 2}


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
        times: seconds that arithmetic, memory traffic and links each take at least, as plans count.
        corner: seconds of links at the corner of a mesh that does not wrap around; sums over chips
            count there as what they send.
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
    corner: float

    @property
    def kind(self) -> str:
        """Kind of the chips, e.g. "v5e"."""
        return self.topology.partition(":")[0]

    @property
    def per_chip(self) -> float:
        """Pictures of one run on each chip."""
        return self.images / self.chips

    @property
    def alone(self) -> float:
        """Pictures that a chip makes in a second at most, if its messages take no time."""
        return self.per_chip / max(self.times["arithmetic"], self.times["memory"])

    def limits(self, corner: bool = False) -> dict[str, float]:
        """Give the seconds of each resource.

        Args:
            corner: whether links are those of a corner.
        """
        return {**self.times, "links": self.corner if corner else self.times["links"]}

    def seconds(self, corner: bool = False) -> float:
        """Give the seconds that one run takes at least; see `limits`."""
        return max(self.limits(corner).values())

    def rules(self, corner: bool = False) -> str:
        """Name the resource that takes longest; see `limits`."""
        times = self.limits(corner)
        return max(times, key=times.__getitem__)

    def rate(self, corner: bool = False) -> float:
        """Give the pictures that a chip makes in a second at most; see `limits`."""
        return self.per_chip / self.seconds(corner)

    def chip_hours(self, pictures: float, corner: bool = False) -> float:
        """Give the hours of one chip that so many pictures take at least; see `limits`."""
        return pictures / self.rate(corner) / 3600


def bound(plan: Mapping[str, Any]) -> Bound:
    """Read a plan as plans.json keeps it: what `--plan-json` writes, and what it was made for.

    A message counts once, by its results, and uses all links of the chip, as in
    `moa_jax.planning.usage.Usage.times`.
    """
    chip = _chip(plan["chip"])
    sizes = {kind: size for kind, (_, size) in plan["collectives"].items()}
    sent = sum(SENT.get(kind, 1) * size for kind, size in sizes.items())
    times = {
        "arithmetic": (plan["flops"] + plan["kernel_flops"]) / chip.flops,
        "memory": plan["bytes"] / chip.memory_bandwidth,
        "links": sum(sizes.values()) / chip.link_bandwidth,
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
        sent / (CORNER * chip.link_bandwidth),
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

    def efficiency(self, of: Bound, corner: bool = False) -> float | None:
        """Give the share of the base's pictures that a chip makes at most; see `Bound.limits`."""
        if of.kind not in self.base or not of.fits:
            return None
        return of.rate(corner) / self.base[of.kind]

    def largest(self, kind: str, share: float, corner: bool = False) -> Bound | None:
        """Give the largest mesh of a kind of chip whose efficiency is at least a share."""
        found = [each for each in self.bounds if each.kind == kind]
        found = [each for each in found if (self.efficiency(each, corner) or 0.0) >= share]
        return max(found, key=lambda each: (each.chips, each.rate(corner)), default=None)


def weak(steps: Sequence[Bound], per_chip: int) -> Scaling:
    """Compare meshes on which each chip has so many pictures with one chip.

    One chip's bound is that of the smallest mesh as if its messages took no time; a mesh of one
    chip sends none.
    """
    chosen = [each for each in steps if each.per_chip == per_chip and not each.remat]
    return _scaling("weak", chosen, lambda each: each.alone)


def strong(steps: Sequence[Bound], batch: int) -> Scaling:
    """Compare meshes that share so many pictures with the smallest that recomputes nothing."""
    chosen = [each for each in steps if each.images == batch]
    return _scaling("strong", chosen, lambda each: each.rate())


def _scaling(name: str, chosen: Sequence[Bound], rate: Callable[[Bound], float]) -> Scaling:
    ordered = sorted(chosen, key=lambda each: (each.kind, each.chips, each.remat, each.preset))
    base: dict[str, float] = {}
    for each in ordered:
        # A step that recomputes its blocks is another program, of more work.
        if each.fits and not each.remat:
            base.setdefault(each.kind, rate(each))
    return Scaling(name, ordered, base)
