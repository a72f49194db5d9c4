"""The data set's card, `README.md`: what made it, of what, and what was left out and why."""

from collections import Counter
from typing import Any, Protocol, runtime_checkable

from moa_jax import __version__
from moa_jax.dataset.files import Folder

CARD = "README.md"
_ROLES = ("captioner", "grounder", "segmenter", "faces", "filter")


@runtime_checkable
class Counted(Protocol):
    """What the card needs of a run's report."""

    rows: list[dict[str, Any]]
    by_hand: int
    pairs: int

    def counts(self) -> dict[str, Counter[str]]:
        """Count the kinds of reasons, of pictures ("dropped") and of subjects ("left_out")."""
        ...


def write_card(folder: Folder, state: dict[str, Any], report: Counted, below: float | None) -> None:
    """Write the card.

    Args:
        state: what decided what was built: networks and options.
        below: distance of faces below which two subjects were paired; None if none were.
    """
    counts = report.counts()
    subjects = sum(len(row["subjects"]) for row in report.rows)
    lines = [
        "# A data set for Mixture-of-Attention",
        "",
        f"Built by `python -m moa_jax.data build` of moa_jax {__version__}: {len(report.rows)} "
        f"pictures with {subjects} subjects; {report.by_hand} of the rows were made by hand.",
        "",
        "All else is what the networks below gave, and nobody has looked at each. `sheet.png` "
        "shows some of it, and `dropped.png` what was left out. The licence of the photographs, "
        "and the consent of the people in them, are not known here.",
        "",
        "## Networks",
        "",
        "| part | network |",
        "| --- | --- |",
        *(f"| {role} | {_cell(state[role] or 'none')} |" for role in _ROLES),
        "",
        "A commit names one state of a repository on the hub. Where there is none, the network "
        "was read from a folder, and its revision is not known.",
        "",
        "## Options",
        "",
        "| option | value |",
        "| --- | --- |",
        *(f"| {key} | {_cell(value)} |" for key, value in state.items() if key not in _ROLES),
        "",
        "## Left out",
        "",
        *_table("pictures", counts["dropped"]),
        *_table("subjects of the pictures above", counts["left_out"]),
        "`build.log` has the reason of each picture.",
    ]
    if below is not None:
        lines += [
            "",
            "## Pairs",
            "",
            f"{report.pairs} pairs of subjects were taken for one person: their faces are less "
            f"than {below:g} apart. `pairs.jsonl` lists them, and `pairs.png` shows those that "
            "are farthest apart.",
        ]
    folder.write(CARD, "\n".join([*lines, ""]).encode())


def _table(of: str, counts: Counter[str]) -> list[str]:
    rows = [f"| {kind} | {count} |" for kind, count in counts.most_common()]
    return [f"| {of}, by reason | number |", "| --- | --- |", *(rows or ["| none | 0 |"]), ""]


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
