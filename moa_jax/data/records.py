"""What a folder holds: one record for each captioned picture, in one of three layouts.

`ffhq`, as FastComposer released its data [FC]: `<root>/<id[:5]>/<id>.{jpg,json,npy}`, with
`image_ids.txt` (and `image_ids_train.txt`, `image_ids_test.txt`) listing the ids. The json has
`caption` and `segments`, each `{id, bbox: [x1, y1, x2, y2], coco_label, end}`: `end` counts the
caption's characters before the end of the subject's word. The npy holds each pixel's segment id.

`imagefolder`, the convention of Hugging Face datasets: `<root>/metadata.jsonl`, a line a picture:
    {"file_name": "0001.jpg", "text": "a man and a dog in the snow", "subjects":
     [{"mask": "masks/0001_0.png", "word": "man"}, {"mask": "masks/0001_1.png", "word": "dog"}]}
Paths are relative to the root; `word` may be a phrase ("old man"). If subjects share a word, the
n-th takes its n-th occurrence. `subjects` may be empty: such a picture teaches its text only.

`packed`: one of the other two, written by `python -m moa_jax.data pack`; see `moa_jax.data.packed`.

A record keeps its own faults; a fault of the folder is raised. No pixel is read here.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

from moa_jax.data.captions import IMAGE_MARKER, end_fault, find_word, word_end
from moa_jax.data.files import Blob, File, Location, find_folder
from moa_jax.data.packed import INDEX, Shards, decode_record
from moa_jax.errors import InputError
from moa_jax.extension import find, is_name

METADATA = "metadata.jsonl"
SPLITS = {"all": "image_ids.txt", "train": "image_ids_train.txt", "test": "image_ids_test.txt"}

Box = tuple[int, int, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """A subject of a picture.

    Attributes:
        mask: file of its mask, or its segment id in the record's instance map.
        end: characters of the caption up to the end of its word (`word_end`); None if not found.
        box: x1, y1, x2, y2 in pixels; None means the bounds of its mask.
    """

    mask: File | int
    end: int | None
    box: Box | None = None


@dataclass(frozen=True)
class Record:
    """A captioned picture and its subjects, still in their files.

    Attributes:
        image: the picture's file; None if the record names none.
        instance_map: npy file with the segment id of each pixel; None if the layout has none.
        sample_subjects: whether subjects past the limit are left out at random [FC] or a fault.
        faults: what is wrong with the caption and the list of subjects.
    """

    name: str
    image: File | None
    caption: str = ""
    subjects: tuple[Subject, ...] = ()
    instance_map: File | None = None
    sample_subjects: bool = False
    faults: tuple[str, ...] = ()


class Records(Sequence[Record], Generic[T]):
    """The records of a folder, each parsed when it is asked for.

    Attributes:
        listing: the file that lists them.
    """

    def __init__(self, sources: Sequence[T], parse: Callable[[T], Record], listing: Location):
        self._sources, self._parse, self.listing = sources, parse, listing

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Records[T]": ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Records(self._sources[index], self._parse, self.listing)
        return self._parse(self._sources[index])


def open_records(
    path: str | Path,
    layout: str = "auto",
    split: Literal["all", "train", "test"] = "all",
    subject_label: str | None = None,
) -> Records:
    """List the records of a data set.

    Args:
        path: on disk, or in a bucket (gs://bucket/folder).
        layout: "auto", "imagefolder", "ffhq" or "packed"; or a function of your own, named as
            `package.module:name(option=1)`, that makes `Records` of path, split and subject label.
        split: which list of ids to read (ffhq only).
        subject_label: `coco_label` of the segments that are subjects; None means all (ffhq only).

    Raises:
        InputError: there is no such folder, or it has no layout, several layouts or no records; a
            packed folder was made with another split or label, or `Shards` refuses it.
    """
    if not str(path):
        raise InputError("data.path is empty; give the folder of the data set")
    if is_name(layout):
        records = find(layout, "data.layout")(path, split, subject_label)
    else:
        root = find_folder(path)
        kind = _detect(root) if layout == "auto" else layout
        openers = {"ffhq": _open_ffhq, "imagefolder": _open_imagefolder, "packed": _open_packed}
        records = openers[kind](root, split, subject_label)
    if not records:
        raise InputError(f"{records.listing} lists no pictures")
    return records


def _detect(root: Location) -> Literal["imagefolder", "ffhq", "packed"]:
    listings = {METADATA: "imagefolder", INDEX: "packed"} | dict.fromkeys(SPLITS.values(), "ffhq")
    # Not is_file(): in older etils it is true of files that are not in the bucket.
    found = {layout for name, layout in listings.items() if (root / name).exists()}
    if len(found) > 1:
        raise InputError(
            f"{root} has several of {METADATA}, image_ids*.txt and {INDEX}; "
            f"set the layout to one of {', '.join(sorted(found))}"
        )
    if not found:
        what = "is empty" if not any(root.iterdir()) else "is no data set"
        raise InputError(
            f"{root} {what}: it has neither {METADATA} (layout imagefolder) nor image_ids.txt "
            f"(layout ffhq) nor {INDEX} (layout packed); moa_jax/data/records.py shows what they "
            "look like"
        )
    return found.pop()


def _open_ffhq(root: Location, split: str, subject_label: str | None) -> Records[str]:
    listing = root / SPLITS[split]
    _require(listing, f"layout ffhq, split {split!r}")
    ids = [line.strip() for line in listing.read_text().splitlines()]
    return Records([id for id in ids if id], partial(_parse_ffhq, root, subject_label), listing)


def _open_imagefolder(root: Location, split: str, _: Any) -> Records[tuple[int, bytes]]:
    if split != "all":
        raise InputError(
            f"split {split!r}: the imagefolder layout has no splits; "
            "set it to 'all' and give the split's own folder as the path"
        )
    listing = root / METADATA
    _require(listing, "layout imagefolder")
    lines = listing.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")  # UTF-8's BOM
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return Records(numbered, partial(_parse_metadata, root), listing)


def _open_packed(root: Location, split: str, subject_label: str | None) -> Records[bytes]:
    listing = root / INDEX
    _require(listing, "layout packed")
    shards = Shards(root)
    source = shards.index["source"]
    if split not in ("all", source["split"]):
        raise InputError(f"split {split!r}: {root} was packed with {source['split']!r}")
    if source["layout"] == "ffhq" and subject_label != source["subject_label"]:
        raise InputError(
            f"subject label {subject_label!r}: {root} was packed with "
            f"{source['subject_label'] or 'none'!r}; give that, or pack the source again"
        )
    return Records(shards, _parse_packed, listing)


def _require(listing: Location, layout: str) -> None:
    if not listing.exists():
        packed = "; the folder is packed: set the layout to packed"
        hint = packed if (listing.parent / INDEX).exists() else ""
        raise InputError(f"{listing}: no such file ({layout}){hint}")


def _parse_packed(data: bytes) -> Record:
    row = decode_record(data)
    subjects = tuple(
        Subject(
            Blob(f"packed mask {count}", subject["mask"]),
            word_end(row["caption"], subject["end"]),
            (*subject["box"],),
        )
        for count, subject in enumerate(row["subjects"], start=1)
    )
    image = Blob("packed picture", row["image"])
    sample = row["sample_subjects"]
    return Record(row["name"], image, row["caption"], subjects, sample_subjects=sample)


def _parse_ffhq(root: Location, subject_label: str | None, id: str) -> Record:
    stem = root / id[:5] / id
    record = partial(
        Record, id, stem.with_name(f"{id}.jpg"), instance_map=stem.with_name(f"{id}.npy")
    )
    path = stem.with_name(f"{id}.json")
    try:
        info = json.loads(path.read_bytes())
    except FileNotFoundError:
        return record(faults=(f"{path}: no such file",))
    except (OSError, ValueError) as error:  # ValueError: not JSON, or not UTF-8
        return record(faults=(f"{path}: not JSON ({error})",))
    faults = _missing(info, {"caption": str, "segments": list})
    if faults:
        return record(faults=tuple(f"{path}: {fault}" for fault in faults))
    caption, subjects = info["caption"], []
    for place, segment in enumerate(info["segments"]):
        label = segment.get("coco_label") if isinstance(segment, dict) else subject_label
        if subject_label is not None and str(label) != subject_label:
            continue
        wrong = _missing(segment, {"id": int, "bbox": list, "end": int})
        box = None if wrong else _to_box(segment["bbox"])
        if wrong or box is None:
            wrong = wrong or [f"bbox {segment['bbox']} is not four numbers x1, y1, x2, y2"]
            faults += [f"segment {place}: {fault}" for fault in wrong]
            continue
        fault = end_fault(caption, segment["end"])
        faults += [f"segment {place} (id {segment['id']}): {fault}"] if fault else []
        end = None if fault else word_end(caption, segment["end"])
        subjects.append(Subject(segment["id"], end, box))
    faults += _caption_faults(caption)
    return record(caption, tuple(subjects), sample_subjects=True, faults=tuple(faults))


def _parse_metadata(root: Location, numbered_line: tuple[int, bytes]) -> Record:
    number, line = numbered_line
    place = f"{METADATA} line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        return Record(place, None, faults=(f"not JSON ({error})",))
    faults = _missing(row, {"file_name": str, "text": str, "subjects": list})
    if faults:
        return Record(place, None, faults=tuple(faults))
    caption, subjects = row["text"], []
    seen: Counter[str] = Counter()
    for count, entry in enumerate(row["subjects"], start=1):
        if wrong := _missing(entry, {"mask": str, "word": str}):
            faults += [f"subject {count}: {fault}" for fault in wrong]
            continue
        word = entry["word"].strip()
        seen[word.lower()] += 1
        end = find_word(caption, word, seen[word.lower()]) if word else None
        end = end if end is None else word_end(caption, end)
        if word and word_end(word, len(word)) is None:
            faults.append(f"subject {count}: {word!r} has no letter or digit, so it is no word")
        elif end is None:
            nth = f" (occurrence {seen[word.lower()]})" if seen[word.lower()] > 1 else ""
            faults.append(f"subject {count}: the caption {caption!r} has no word {word!r}{nth}")
        elif any(end == other.end for other in subjects):
            faults.append(f"subject {count}: {word!r} is the word of another subject already")
        subjects.append(Subject(root / entry["mask"], end))
    faults += _caption_faults(caption)
    name = f"{row['file_name']} ({place})"
    return Record(name, root / row["file_name"], caption, tuple(subjects), faults=tuple(faults))


def _missing(row: Any, keys: dict[str, type]) -> list[str]:
    """List the keys that a JSON object lacks or has with another type."""
    if not isinstance(row, dict):
        return [f"is {json.dumps(row)[:40]}, not an object with {', '.join(keys)}"]
    names = {str: "a string", list: "a list", int: "a whole number"}
    return [
        f"{key!r} is {json.dumps(row[key])[:40]}, not {names[kind]}"
        if key in row
        else f"no {key!r}"
        for key, kind in keys.items()
        if not isinstance(row.get(key), kind) or isinstance(row[key], bool)  # a bool is an int
    ]


def _to_box(values: list[Any]) -> Box | None:
    try:
        x1, y1, x2, y2 = (int(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return None
    return x1, y1, x2, y2


def _caption_faults(caption: str) -> list[str]:
    if IMAGE_MARKER not in caption:
        return []
    return [f"the caption has the marker {IMAGE_MARKER}; say which words are subjects instead"]
