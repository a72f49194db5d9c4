"""The report of a run: tables in Markdown, all numbers in JSON, and a sheet of pictures.

Every row says who judged, and under which licences. A mean is over people, each with the mean of
their pictures; two people count as one value.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_jax.data.images import load_image
from moa_jax.errors import InputError
from moa_jax.evaluation.faces.protocol import PAIRS, Trial
from moa_jax.evaluation.statistics import Estimate, Units, estimate
from moa_jax.faces.recognizer import Recognizer
from moa_jax.figures import picture_table

FORMAT = 1
HASHES = ("fingerprints", "files")  # of the run: for programs, not for people
RESULTS, REPORT, SHEETS = "results.json", "report.md", ("people.png", "pairs.png")
SHOWN, CELL = 8, 160  # rows of a sheet at most; pixels of its cells

Record = Mapping[str, Any]  # of one picture, see `picture_record`
NOTES = """
Each picture of one person counts by the face that is most like them; with two people, each gets a
face of its own, and the less alike one counts. **identity** is the cosine of two embeddings, 0 if
it is negative or there is no face. **centred** is the same after the mean embedding of this run's
references is taken from both sides, from three people on: it depends on who they are. **distance**
is Euclidean, between embeddings of length 1, over the pictures in which nobody is missing. **same
person** is the share of pictures in which everybody is nearer than the recognizer's own limit for
photographs. **no face** is the share in which somebody has none. **prompt** is CLIP's cosine.

The interval is the bootstrap's of 95 %, with people drawn anew. A mean over few people says little
about others.

Nobody published at which distance a face in a *generated* picture shows the same person: the limits
are for photographs. Numbers of different recognizers, and of other references, do not compare.
"""
HEADS = ("who", "recognizer", "licence", "pictures", "identity", "centred", "distance")
HEADS += ("same person", "no face", "prompt")
MEASURES: dict[str, Callable[[Record], Any]] = {
    "identity": lambda found: found["identity"],
    "centred": lambda found: found["centred"],
    "distance": lambda found: found["distance"],
    "same": lambda found: float(found["same"]),
    "no_face": lambda found: float(found["missing"] > 0),
}


def picture_record(trial: Trial, likeness: Mapping[str, Any], prompt: float | None) -> Record:
    """Gather what is known of one picture.

    Args:
        likeness: for each recognizer by its name, what `compare` found.
        prompt: CLIP's cosine; None if it was not measured.
    """
    return {
        "name": trial.name,
        "people": [person.name for person in trial.people],
        "kind": trial.prompt.kind,
        "caption": trial.caption,
        "likeness": dict(likeness),
        "prompt": prompt,
    }


def summarize(pictures: Sequence[Record], recognizer: Recognizer) -> list[dict[str, Any]]:
    """Make the rows of a recognizer: one person, and two people if there were any."""
    rows = []
    for who, count in (("one person", 1), ("two people", 2)):
        chosen = [each for each in pictures if len(each["people"]) == count]
        if not chosen:
            continue
        judged = {
            name: _estimate(chosen, lambda each, of=of: of(each["likeness"][recognizer.name]))
            for name, of in MEASURES.items()
        }
        judged["prompt"] = _estimate(chosen, lambda each: each["prompt"])
        rows.append(
            {
                "who": who,
                "recognizer": recognizer.name,
                "licence": recognizer.licence,
                "source": recognizer.source,
                "same_person": recognizer.same_person,
                "pictures": len(chosen),
                **judged,
                "kinds": _kinds(chosen, recognizer.name),
            }
        )
    return rows


def write_report(
    out: Path,
    run: Mapping[str, Any],
    pictures: Sequence[Record],
    recognizers: Sequence[Recognizer],
) -> list[dict[str, Any]]:
    """Write RESULTS and REPORT, and give the rows of the table.

    Args:
        run: what was drawn, by which weights; it is told at the top.
    """
    rows = [row for each in recognizers for row in summarize(pictures, each)]
    results = {"format": FORMAT, "run": run, "rows": rows, "pictures": pictures}
    write_text(out / RESULTS, [json.dumps(results, indent=1, default=str)])
    told = ["# Faces", "", "Written by `python -m moa_jax.evaluation faces`.", ""]
    told += [f"- {name}: {value}" for name, value in run.items() if _is_told(name, value)]
    told += ["", *markdown_table(HEADS, map(cells, rows)), NOTES]
    told += ["## By kind of prompt", ""]
    kinds = [
        (row["who"], row["recognizer"], kind, *map(_plain, found.values()))
        for row in rows
        for kind, found in row["kinds"].items()
    ]
    told += markdown_table(("who", "recognizer", "kind", "identity", "no face", "prompt"), kinds)
    told += ["", "## Judged by", ""]
    for each in recognizers:
        told.append(
            f"- **{each.name}**: {each.source}. {each.licence}. Photographs nearer than "
            f"{each.same_person:g} are taken for one person."
        )
    if not any(each["prompt"] is not None for each in pictures):
        told += ["", "The prompt was not measured: that takes a complete CLIP, `--clip FOLDER`."]
    write_text(out / REPORT, told)
    return rows


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Lay out a row under HEADS."""
    first = (row["who"], row["recognizer"], row["licence"], str(row["pictures"]))
    return (*first, *(_told(row[name]) for name in (*MEASURES, "prompt")))


def write_sheets(out: Path, trials: Sequence[Trial], file_of: Callable[[Trial], Path]) -> None:
    """Write a sheet of people, and one of pairs if there are any: references, then drawings.

    For each of the first SHOWN people the sheet has the first picture of each kind of prompt; for
    each pair, those of the first three prompts.

    Args:
        file_of: where a trial's picture is.
    """
    for name, count in zip(SHEETS, (1, 2), strict=True):
        chosen = [each for each in trials if len(each.people) == count and each.picture == 0]
        chosen = [each for each in chosen if each.prompt.number < (3 if count == 2 else 1)]
        units = list(dict.fromkeys(each.unit for each in chosen))[:SHOWN]
        if not units:
            continue
        rows, heads = [], []
        for unit in units:
            own = [each for each in chosen if each.unit == unit]
            people = own[0].people
            rows.append([load_image(person.pictures[0]) for person in people])
            rows[-1] += [load_image(file_of(each)) for each in own]
            kinds = [f"{PAIRS} {e.prompt.number + 1}" if count == 2 else e.prompt.kind for e in own]
            heads = ["reference"] * count + kinds
        picture_table(rows, heads, CELL).save(out / name)


def means(pictures: Iterable[Record], of: Callable[[Record], float | None]) -> Units:
    """Average a value over the pictures of each person or pair; None is left out."""
    found: dict[tuple[str, ...], list[float]] = {}
    for each in pictures:
        if (value := of(each)) is not None:
            found.setdefault(tuple(each["people"]), []).append(value)
    return {unit: sum(values) / len(values) for unit, values in found.items()}


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay a table out as lines of Markdown."""
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows)]


def write_text(file: Path, lines: Iterable[str]) -> None:
    """Write a file so that it is there intact or not at all.

    Raises:
        InputError: it cannot be written.
    """
    unfinished = file.with_suffix(".unfinished")
    try:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error}") from error


def _estimate(pictures: Sequence[Record], of: Callable[[Record], Any]) -> dict[str, Any] | None:
    units = means(pictures, of)
    return estimate(units)._asdict() if units else None


def _kinds(pictures: Sequence[Record], recognizer: str) -> dict[str, dict[str, Any]]:
    """Average identity, missing faces and prompt for each kind of prompt."""
    found = {}
    for kind in dict.fromkeys(each["kind"] for each in pictures):
        chosen = [each for each in pictures if each["kind"] == kind]
        measures = {name: MEASURES[name] for name in ("identity", "no_face")}
        found[kind] = {
            name: _estimate(chosen, lambda each, of=of: of(each["likeness"][recognizer]))
            for name, of in measures.items()
        }
        found[kind]["prompt"] = _estimate(chosen, lambda each: each["prompt"])
    return found


def _is_told(name: str, value: Any) -> bool:
    return name not in HASHES and value is not None and value != []


def _told(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    mean, low, high = Estimate(**found)
    return f"{mean:.3f}" if low is None else f"{mean:.3f} ({low:.3f}–{high:.3f})"


def _plain(found: Mapping[str, Any] | None) -> str:
    return "–" if found is None else f"{found['mean']:.3f}"
