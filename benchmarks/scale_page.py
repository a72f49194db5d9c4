"""The page and the figure of `benchmarks.scale`, from the plans on record.

The command writes what stands between two markers of the page; the text around them is by hand, and
holds no number of a plan. Only compiled plans are drawn, and no line joins them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.bounds import Bound, Scaling, strong, weak
from moa_jax.evaluation.toy.report import markdown_table
from moa_jax.figures.canvas import rendered

BEGIN, END = "<!-- begin: python -m benchmarks.scale -->", "<!-- end -->"
WEAK = 8  # pictures a chip
BOTH = (False, True)  # links as plans count them, and at a corner
DRAWING = "one device"  # title of a drawing's plan
ROOM = 0.5  # GiB that the machine code may take; see moa_jax.planning.plan.CODE
COLORS = {"v5e": "#2563eb", "v6e": "#ea580c", "v5p": "#059669"}
MARKS = {
    "arithmetic": ("o", "#7c3aed"),
    "memory": ("s", "#b45309"),
    "links": ("^", "#475569"),
}
NAMES = {"arithmetic": "arithmetic", "memory": "HBM", "links": "links"}
BESIDE = {"weak": 0.94, "strong": 1.06}  # marks of both at one number of chips stand side by side
STEP_HEADS = [
    *("mesh", "chips", "pictures a chip", "GiB of a chip"),
    *("arithmetic, ms", "HBM, ms", "links, ms", "rules", "step, ms"),
    *("pictures/s of a chip", "efficiency", "chip-hours of the run"),
]
DRAW_HEADS = [
    *("chip", "attention", "pictures at once", "GiB of a chip", "arithmetic, s", "HBM, s"),
    *("rules", "pictures/s of a chip", "pictures of a chip-hour"),
]


@dataclass(frozen=True)
class Run:
    """What the page is about.

    Attributes:
        batch: pictures of one step of the paper's run.
        steps: number of its steps.
        efficient: the efficiency, in [0, 1], from which on a mesh is called efficient.
        prices: dollars of a chip-hour by the kind of chip; the project knows none.
        missing: keys of the plans that are not compiled yet.
    """

    batch: int
    steps: int
    efficient: float
    prices: Mapping[str, float]
    missing: Sequence[str]

    @property
    def pictures(self) -> int:
        """Pictures that the whole run sees."""
        return self.batch * self.steps


def insert(page: str, written: str) -> str:
    """Put what the command writes between the markers of a page; a new page gets them.

    Raises:
        ValueError: a page has one marker without the other.
    """
    if BEGIN not in page and END not in page:
        page = (page or "# Scale on paper\n") + f"\n{BEGIN}\n{END}\n"
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page must have {BEGIN!r} once, and after it {END!r} once")
    return f"{page.partition(BEGIN)[0]}{BEGIN}\n{written}\n{END}{page.partition(END)[2]}"


def markdown(bounds: Sequence[Bound], run: Run) -> str:
    """Write the tables and what follows from them."""
    steps, drawings = split(bounds)
    more, spread = weak(steps, WEAK), strong(steps, run.batch)
    missing = ", ".join(f"`{key}`" for key in run.missing)
    parts = [
        f"### Weak: {WEAK} pictures on each chip",
        _steps(more, run),
        _verdict(more, run, "one chip that sends no messages"),
        f"### Strong: the paper's batch of {run.batch} on more chips",
        _steps(spread, run),
        _verdict(spread, run, "the smallest mesh that recomputes nothing"),
        "### Drawing",
        _drawings(drawings, run),
        f"Not compiled: {missing}." if missing else "All plans of the command are here.",
    ]
    return "\n\n".join(part for part in parts if part)


def split(bounds: Sequence[Bound]) -> tuple[list[Bound], list[Bound]]:
    """Part training steps from drawings."""
    drawings = [each for each in bounds if each.preset == DRAWING]
    return [each for each in bounds if each.preset != DRAWING], drawings


def _steps(scaling: Scaling, run: Run) -> str:
    heads = [*STEP_HEADS, *(["dollars of the run"] if run.prices else [])]
    return markdown_table(heads, [_step(each, scaling, run) for each in scaling.bounds])


def _step(each: Bound, scaling: Scaling, run: Run) -> list[str]:
    mesh = f"{each.topology} {each.preset}" + (", remat" if each.remat else "")
    cells = [mesh, str(each.chips), f"{each.per_chip:g}", _memory(each)]
    if not each.fits:
        return [*cells, *["-"] * (len(STEP_HEADS) - len(cells) + bool(run.prices))]
    cells += [f"{1000 * each.times[name]:.1f}" for name in ("arithmetic", "memory")]
    cells += [
        _both(f"{1000 * each.limits(corner)['links']:.1f}" for corner in BOTH),
        _both(NAMES[each.rules(corner)] for corner in BOTH),
        _both(f"{1000 * each.seconds(corner):.1f}" for corner in BOTH),
        _both(f"{each.rate(corner):.1f}" for corner in BOTH),
    ]
    shares = [scaling.efficiency(each, corner) for corner in BOTH]
    cells.append(_both("-" if share is None else f"{100 * share:.0f} %" for share in shares))
    hours = [each.chip_hours(run.pictures, corner) for corner in BOTH]
    cells.append(_both(f"{each:.0f}" for each in hours))
    if run.prices:
        price = run.prices.get(each.kind)
        cells.append("-" if price is None else _both(f"{price * each:.0f}" for each in hours))
    return cells


def _both(values: Iterable[str]) -> str:
    """Write a value, and in brackets what it is at a corner, if that differs."""
    whole, *half = dict.fromkeys(values)
    return f"{whole} ({half[0]})" if half else whole


def _memory(each: Bound) -> str:
    words = f"{each.memory:.1f} of {each.limit:.1f}"
    if not each.fits:
        return f"{words}: does not fit"
    return words + (
        ": perhaps too little room for the code" if each.limit - each.memory < ROOM else ""
    )


def _verdict(scaling: Scaling, run: Run, base: str) -> str:
    """Say the largest efficient mesh of each kind of chip of which there is more than one mesh."""
    kinds = Counter(each.kind for each in scaling.bounds if each.fits)
    found = []
    for kind in (kind for kind, meshes in kinds.items() if meshes > 1):
        best = [scaling.largest(kind, run.efficient, corner) for corner in BOTH]
        named = ("none" if each is None else f"{each.chips} by {each.preset}" for each in best)
        found.append(f"{kind} {_both(named)}")
    if not found:
        return ""
    return (
        f"Most compiled chips that each keep at least {100 * run.efficient:.0f} % of the pictures "
        f"a second of {base}: {'; '.join(found)}."
    )


def _drawings(drawings: Sequence[Bound], run: Run) -> str:
    heads = [*DRAW_HEADS, *(["pictures of a dollar"] if run.prices else [])]
    lines = []
    for each in sorted(drawings, key=lambda each: (each.kind, each.attention, each.images)):
        cells = [each.kind, each.attention, f"{each.images}", _memory(each)]
        if not each.fits:
            lines.append([*cells, *["-"] * (len(heads) - len(cells))])
            continue
        cells += [f"{each.times[name]:.2f}" for name in ("arithmetic", "memory")]
        hourly = 3600 * each.rate()
        cells += [NAMES[each.rules()], f"{each.rate():.2f}", f"{hourly:.0f}"]
        if run.prices:
            price = run.prices.get(each.kind)
            cells.append("-" if price is None else f"{hourly / price:.0f}")
        lines.append(cells)
    return markdown_table(heads, lines)


def figure(bounds: Sequence[Bound], run: Run) -> Figure:
    """Draw the seconds of the paper's batch by resource, and the efficiency of both scalings."""
    steps = [each for each in split(bounds)[0] if each.fits]
    more, spread = weak(steps, WEAK), strong(steps, run.batch)
    drawn = Figure((11, 4.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    _draw_times(left, [each for each in spread.bounds if each.kind == "v5e"])
    _draw_shares(right, more, filled=True)
    _draw_shares(right, spread, filled=False)
    left.set(title=f"v5e: a step of {run.batch} pictures, at least", ylabel="ms", yscale="log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.set(title="pictures of a chip, at most", ylabel="efficiency, %", ylim=(0, 115))
    chips = sorted({each.chips for each in steps})
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_xticks(chips, [str(each) for each in chips])
        ax.set_xlabel("chips")
        ax.minorticks_off()
        ax.grid(alpha=0.25)
        if ax.lines:
            ax.legend(fontsize=8)
    return drawn


def _draw_times(ax: Axes, chosen: Sequence[Bound]) -> None:
    """Draw a mark for each plan and resource; a bar leads to the links of a corner."""
    for resource, (mark, color) in MARKS.items():
        for preset in dict.fromkeys(each.preset for each in chosen):
            found = [each for each in chosen if each.preset == preset]
            chips = [each.chips for each in found]
            values = [1000 * each.times[resource] for each in found]
            look = {"color": color, "mfc": color if preset == "fsdp" else "none", "ls": "none"}
            label = f"{NAMES[resource]}, {preset}"
            ax.plot(chips, values, marker=mark, label=label, **look)
            if resource == "links":
                corners = [1000 * each.corner for each in found]
                ax.vlines(chips, values, corners, color=color, alpha=0.5)


def _draw_shares(ax: Axes, scaling: Scaling, filled: bool) -> None:
    """Draw a mark for each plan; a bar leads down to what a corner keeps."""
    labels = set()
    for each in scaling.bounds:
        shares = [scaling.efficiency(each, corner) for corner in BOTH]
        if None in shares:
            continue
        whole, half = (100 * share for share in shares if share is not None)
        color, label = COLORS[each.kind], f"{each.kind}, {scaling.name}, {each.preset}"
        look = {"color": color, "mfc": color if filled else "none", "ls": "none"}
        mark = "o" if each.preset == "fsdp" else "D"
        shown = None if label in labels else label
        place = each.chips * BESIDE[scaling.name]
        ax.plot([place], [whole], marker=mark, label=shown, **look)
        ax.vlines([place], [half], [whole], color=color, alpha=0.5)
        labels.add(label)


def write(bounds: Sequence[Bound], run: Run, out: Path) -> None:
    """Write OUT.md, between its markers, and OUT.png."""
    page = out.with_name(out.name + ".md")
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    page.write_text(insert(text, markdown(bounds, run)), encoding="utf-8")
    picture = rendered(figure(bounds, run)).quantize(64)  # few colours take few bytes
    picture.save(out.with_name(out.name + ".png"), optimize=True)
