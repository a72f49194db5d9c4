"""What was found of each row, in files small enough for the repository.

So a study goes on from them on any machine, without the weights and pictures of the rows that are
done. A record holds for the study and the recipe it was made with; under others it is not there.
Where the code has changed what a recipe means, the record says so: it is outdated. It is still
shown, but does not stand in for a new training.
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
        outdated: why its training is not what the same recipe would do now; "" if it is.
    """

    numbers: Numbers
    outdated: str = ""


class Records:
    """The records of one study.

    Attributes:
        folder: where they are; made by the first.
        study: see `Study.key`.
        defaults: values of a recipe that a record made before there was such a value has.
    """

    def __init__(self, folder: Path, study: str, defaults: Mapping[str, str] | None = None) -> None:
        """Look nothing up yet."""
        self.folder, self.study, self.defaults = folder, study, defaults or {}

    def find(self, name: str, recipe: Mapping[str, str]) -> Record | None:
        """Give what was measured of a run in this study, if it was trained by this recipe."""
        found = read_json(self.folder / f"{name}.json")
        if not found or found["study"] != self.study:
            return None
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
        """Keep a run's numbers, and pictures of it to show."""
        content = {"study": self.study, "recipe": dict(recipe), "numbers": numbers}
        if strip is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate(list(strip), axis=1)).save(self.folder / f"{name}.png")
        write_json(self.folder / f"{name}.json", content)

    def strip(self, name: str) -> Pictures | None:
        """Give the pictures of a run that are kept."""
        file = self.folder / f"{name}.png"
        if not file.is_file():
            return None
        row = np.asarray(Image.open(file).convert("RGB"))
        return np.stack(np.split(row, row.shape[1] // row.shape[0], axis=1))


def read_json(file: Path) -> dict[str, Any]:
    """Read a file, or nothing if it is not there."""
    return json.loads(file.read_text()) if file.is_file() else {}


def write_json(file: Path, content: Any) -> None:
    """Write a file, so that it is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(file)
