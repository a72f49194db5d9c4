"""Finish a data set: pairs, contact sheets, card and, last of all, the listing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moa_jax.data.imagefolder import METADATA
from moa_jax.dataset.annotate import decode_face
from moa_jax.dataset.card import write_card
from moa_jax.dataset.files import Folder
from moa_jax.dataset.journal import Journal
from moa_jax.dataset.options import Options
from moa_jax.dataset.pairing import find_pairs, references
from moa_jax.dataset.sheets import Tile, draw_pairs, draw_tiles
from moa_jax.dataset.source import Photograph, files_of
from moa_jax.errors import InputError

PAIRS = "pairs.jsonl"

Place = tuple[dict[str, Any], int]  # a row, and which of its subjects


@dataclass(frozen=True)
class Report:
    """What a run of `build` did.

    Attributes:
        rows: the rows of `metadata.jsonl`.
        by_hand: how many of them were made by hand.
        dropped: of each picture that is not among them, the reason, as "kind: detail".
        left_out: reasons for which subjects of the rows were left out.
        pairs: how many pairs of one person's pictures were found.
        made: number of pictures that this run annotated; earlier runs did the others.
    """

    rows: list[dict[str, Any]]
    by_hand: int
    dropped: dict[str, str]
    left_out: list[str]
    pairs: int
    made: int

    def counts(self) -> dict[str, Counter[str]]:
        """Count the kinds of reasons, of pictures and of subjects."""
        reasons = {"dropped": self.dropped.values(), "left_out": self.left_out}
        return {
            key: Counter(reason.partition(":")[0] for reason in each)
            for key, each in reasons.items()
        }


@dataclass(frozen=True)
class Run:
    """What all stages of a run share.

    Attributes:
        photographs: all of the source.
        dropped: of each photograph that is left out, the reason, as "kind: detail".
        entries: what is known of each photograph, by its name.
    """

    folder: Folder
    journal: Journal
    photographs: list[Photograph]
    options: Options
    dropped: dict[str, str] = field(default_factory=dict)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)


def finish(run: Run, state: dict[str, Any], made: int, below: float | None) -> Report:
    """Write all that a data set has beside its pictures and masks.

    Args:
        state: what decided what was built, for the card.
        made: number of pictures that this run annotated.
        below: distance of faces below which two subjects are paired; None pairs none.

    Raises:
        InputError: no picture is left.
    """
    kept = [each.name for each in run.photographs if each.name not in run.dropped]
    entries = [run.entries[name] for name in kept]
    rows = [entry["row"] for entry in entries]
    pairs = [] if below is None else _pair(run.folder, entries, run.options, below)
    left_out = [reason for entry in entries for reason in entry["left_out"]]
    by_hand = sum("by_hand" in entry for entry in entries)
    report = Report(rows, by_hand, dict(run.dropped), left_out, len(pairs), made)
    _draw(run, entries, pairs)
    if not rows:
        counted = ", ".join(f"{n} {kind}" for kind, n in report.counts()["dropped"].most_common())
        raise InputError(
            f"no picture is left of {len(run.photographs)}: {counted}; dropped.png in "
            f"{run.folder.path} shows them, and the options say what is kept"
        )
    write_card(run.folder, state, report, below)
    run.folder.write_lines(METADATA, rows)
    named = {row["file_name"] for row in rows} | {name for row in rows for name in files_of(row)}
    run.folder.remove_all_but(named)
    return report


def _pair(
    folder: Folder, entries: Sequence[dict[str, Any]], options: Options, below: float
) -> list[tuple[float, Place, Place]]:
    """Write the references of each subject into its row, and list the pairs, the nearest first."""
    places: list[Place] = []
    faces, pictures = [], []
    for number, entry in enumerate(entries):
        for count, face in enumerate(entry["faces"]):
            if face is not None:
                places.append((entry["row"], count))
                faces.append(decode_face(face))
                pictures.append(number)
    found = find_pairs(np.stack(faces), np.array(pictures), below) if faces else []
    for one, others in references(found, options.max_references).items():
        row, count = places[one]
        row["subjects"][count]["reference"] = [
            {"image": other["file_name"], "mask": other["subjects"][place]["mask"]}
            for other, place in (places[other] for other in others)
        ]
    pairs = [(pair.distance, places[pair.one], places[pair.other]) for pair in found]
    told = [
        {"distance": round(distance, 4), "masks": [_mask(one), _mask(other)]}
        for distance, one, other in pairs
    ]
    folder.write_lines(PAIRS, told)
    return pairs


def _mask(place: Place) -> str:
    row, count = place
    return row["subjects"][count]["mask"]


def _draw(
    run: Run, entries: Sequence[dict[str, Any]], pairs: Sequence[tuple[float, Place, Place]]
) -> None:
    """Draw the contact sheets: what is kept, what is not, who is paired with whom."""
    root = run.folder.path
    kept = [Tile.of_row(root, entry["row"], entry["boxes"]) for entry in entries]
    draw_tiles(run.folder, "sheet.png", kept)
    files = {each.name: each.file for each in run.photographs}
    gone = [Tile(files[name], f"{name}: {why}") for name, why in sorted(run.dropped.items())]
    draw_tiles(run.folder, "dropped.png", gone)
    # The widest apart come first: they are the ones to look at.
    draw_pairs(run.folder, "pairs.png", list(reversed(pairs)))
