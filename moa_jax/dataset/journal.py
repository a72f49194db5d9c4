"""A file that a line is added to for each finished part of the work, and that survives a kill.

Each line begins with the checksum of its rest. A line that a killed run left half written is cut
off when the file is opened again, and a damaged one is ignored: its part is then done again.
"""

import json
import threading
import zlib
from pathlib import Path
from typing import Any

NAME = "build.log"


class Journal:
    """What was done so far; the latest entry of each part and name counts."""

    def __init__(self, folder: Path) -> None:
        """Read the journal of a folder, or begin one."""
        self._file = folder / NAME
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}
        lines = self._file.read_bytes() if self._file.exists() else b""
        whole = lines[: lines.rfind(b"\n") + 1]
        for line in whole.splitlines():
            checksum, _, text = line.partition(b" ")
            if checksum == _checksum(text):
                part, name, entry = json.loads(text)
                self._entries[part, name] = entry
        if len(whole) < len(lines):
            with self._file.open("r+b") as file:
                file.truncate(len(whole))

    def find(self, part: str, name: str, stamp: str) -> dict[str, Any] | None:
        """Give the entry of a part and a name; None if there is none of that stamp."""
        entry = self._entries.get((part, name))
        return entry if entry is not None and entry["stamp"] == stamp else None

    def add(self, part: str, name: str, stamp: str, entry: dict[str, Any]) -> None:
        """Add an entry; it is in the file when this returns. Threads may call it.

        Args:
            stamp: what the entry was made of; another stamp makes it void.
        """
        entry = {"stamp": stamp, **entry}
        text = json.dumps([part, name, entry], separators=(",", ":")).encode()
        with self._lock:
            with self._file.open("ab") as file:
                file.write(_checksum(text) + b" " + text + b"\n")
            self._entries[part, name] = entry


def _checksum(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode()
