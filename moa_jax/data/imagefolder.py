"""The layout `imagefolder`, a convention of Hugging Face datasets.

`<root>/metadata.jsonl` has a line for each picture:

    {"file_name": "0001.jpg", "text": "a man and a dog in the snow", "subjects":
     [{"mask": "masks/0001_0.png", "word": "man"}, {"mask": "masks/0001_1.png", "word": "dog"}]}

Paths are relative to the root; `word` may be a phrase ("old man"). If subjects share a word, the
n-th takes its n-th occurrence. `subjects` may be empty: such a picture teaches its text only.

A subject may have a `reference`: another picture of the same subject, or a list of such pictures.
Each is a path if the picture shows the subject alone; if not, `{"image": path, "mask": path}`.
"""

import json
from functools import partial
from typing import Any

from moa_jax.data.files import Location
from moa_jax.data.record import Record, Records, caption_faults, find_subjects, missing, require
from moa_jax.errors import InputError

METADATA = "metadata.jsonl"


def open_imagefolder(root: Location, split: str, _: Any) -> Records[tuple[int, bytes]]:
    """List the records of a folder of this layout; see `open_records`."""
    if split != "all":
        raise InputError(
            f"split {split!r}: the imagefolder layout has no splits; "
            "set it to 'all' and give the split's own folder as the path"
        )
    listing = root / METADATA
    require(listing, "layout imagefolder")
    lines = listing.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")  # UTF-8's BOM
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return Records(numbered, partial(_parse, root), listing, "imagefolder")


def _parse(root: Location, numbered_line: tuple[int, bytes]) -> Record:
    number, line = numbered_line
    place = f"{METADATA} line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        return Record(place, None, faults=(f"not JSON ({error})",))
    faults = missing(row, {"file_name": str, "text": str, "subjects": list})
    if faults:
        return Record(place, None, faults=tuple(faults))
    caption = row["text"]
    subjects, faults = find_subjects(caption, row["subjects"], str, lambda path: root / path)
    faults += caption_faults(caption)
    name = f"{row['file_name']} ({place})"
    return Record(name, root / row["file_name"], caption, subjects, faults=tuple(faults))
