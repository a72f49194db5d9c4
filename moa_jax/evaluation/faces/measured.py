"""What was measured of each picture, kept as it is found, so that a stopped run goes on."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moa_jax.errors import InputError


class Measured:
    """Numbers of pictures in a file of lines; a line counts for one picture and one judge.

    Attributes:
        judge: tells what measured: a recognizer or CLIP, its weights, and who was asked for.
    """

    def __init__(self, file: Path, judge: Iterable[str | bytes]) -> None:
        """Read the lines that are there; one that a killed run left unfinished is left out.

        Args:
            judge: everything that a number depends on, besides the picture.
        """
        parts = [part if isinstance(part, bytes) else part.encode() for part in judge]
        self.judge = hashlib.sha256(b"\0".join(parts)).hexdigest()
        self._file, self._known = file, {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            try:
                entry = json.loads(line)
                self._known[entry["picture"], entry["judge"]] = entry["values"]
            except (ValueError, KeyError, TypeError):
                continue

    def find(self, picture: str) -> dict[str, Any] | None:
        """Give what is known of a picture, by its key; None if it is still to be measured."""
        return self._known.get((picture, self.judge))

    def add(self, picture: str, values: Mapping[str, Any]) -> None:
        """Keep what was found of a picture.

        Raises:
            InputError: the file cannot be written.
        """
        self._known[picture, self.judge] = dict(values)
        entry = {"picture": picture, "judge": self.judge, "values": dict(values)}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as lines:
                # A line of its own, even after one that was left unfinished.
                lines.write(f"\n{json.dumps(entry)}\n")
        except OSError as error:
            raise InputError(f"{self._file} cannot be written: {error}") from error
