"""The numbers found for each row, in files small enough for the repository.

With them a study goes on anywhere, without the weights and pictures of the rows that are done. A
record is valid for the study and the recipe that it was made with; for any other it counts as
missing. Where the code has changed what a recipe means, the record says so: it is outdated. It is
still shown, but the row must be trained again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from moa_jax.evaluation.toy.drawing import Pictures

Numbers = dict[str, float]


class Record(NamedTuple):
    """What is on record of a run.

    Attributes:
        outdated: why the same recipe would now train differently; "" if it would not.
    """

    numbers: Numbers
    outdated: str = ""


class Records:
    """The records of one study.

    Attributes:
        folder: where the records are; the first one creates it.
        study: see `Study.key`.
        defaults: values of a recipe to assume for records that are older than those values.
    """

    def __init__(self, folder: Path, study: str, defaults: Mapping[str, str] | None = None) -> None:
        """Remember where to look; no file is read yet."""
        self.folder, self.study, self.defaults = folder, study, defaults or {}

    def find(self, name: str, recipe: Mapping[str, str]) -> Record | None:
        """Give a run's record; None if there is none from this study and this recipe."""
        found = read_json(self.folder / f"{name}.json")
        if not found or found["study"] != self.study:
            return None
        # An older record lacks the values that recipes got later.
        made = {key: self.defaults[key] for key in recipe if key in self.defaults}
        if {**made, **found["recipe"]} != dict(recipe):
            return None
        return Record(found["numbers"], found.get("outdated", ""))

    def save(
        self,
        name: str,
        recipe: Mapping[str, str],
        numbers: Numbers,
        strip: Pictures | None = None,
    ) -> None:
        """Keep a run's numbers, and some of its pictures to show."""
        content = {"study": self.study, "recipe": dict(recipe), "numbers": numbers}
        if strip is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate(list(strip), axis=1)).save(self.folder / f"{name}.png")
        write_json(self.folder / f"{name}.json", content)

    def strip(self, name: str) -> Pictures | None:
        """Give the pictures kept for a run; None if there are none."""
        file = self.folder / f"{name}.png"
        if not file.is_file():
            return None
        row = np.asarray(Image.open(file).convert("RGB"))
        # The pictures are square and stand side by side.
        return np.stack(np.split(row, row.shape[1] // row.shape[0], axis=1))


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file; the result is empty if there is no such file."""
    return json.loads(file.read_text()) if file.is_file() else {}


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file so that it is there intact or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Renamed at the end, so that nobody ever reads half a file.
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(file)
