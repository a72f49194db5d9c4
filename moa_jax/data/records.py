"""What a data set holds: one record for each captioned picture, in one of four layouts.

- `imagefolder`: pictures, masks and `metadata.jsonl`; see `moa_jax.data.imagefolder`.
- `ffhq`: a folder as FastComposer released its data [FC]; see `moa_jax.data.ffhq`.
- `datasets`: a data set of the library `datasets`, on disk or by its id on the Hugging Face Hub;
  see `moa_jax.data.hub_datasets`.
- `packed`: one of the others, written by `python -m moa_jax.data pack`; see `moa_jax.data.packed`.

A record keeps its own faults; a fault of the folder is raised. No pixel is read here.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from moa_jax.data.captions import word_end
from moa_jax.data.ffhq import SPLITS, open_ffhq
from moa_jax.data.files import Blob, Location, find_folder
from moa_jax.data.hub_datasets import SAVED, open_datasets
from moa_jax.data.imagefolder import METADATA, open_imagefolder
from moa_jax.data.packed import INDEX, Shards, decode_record
from moa_jax.data.record import Box, Record, Records, Reference, Subject, require
from moa_jax.errors import InputError
from moa_jax.extension import find, is_name

__all__ = ["Box", "Record", "Records", "Reference", "Subject", "open_records"]


def open_records(
    path: str | Path,
    layout: str = "auto",
    split: Literal["all", "train", "test"] = "all",
    subject_label: str | None = None,
) -> Records:
    """List the records of a data set.

    Args:
        path: on disk, or in a bucket (gs://bucket/folder); with the layout "datasets" also an id on
            the Hugging Face Hub (owner/name).
        layout: "auto", "imagefolder", "ffhq", "datasets" or "packed"; or a function of your own,
            named as `package.module:name(option=1)`, that makes `Records` of path, split and
            subject label. "auto" tells by what is in the folder.
        split: which list of ids (ffhq) or which split (datasets) to read.
        subject_label: `coco_label` of the segments that are subjects; None means all (ffhq only).

    Raises:
        InputError: there is no such folder, or it has no layout, several layouts or no records; a
            packed folder was made with another split or label, or `Shards` refuses it; or as
            `open_datasets`.
    """
    if not str(path):
        raise InputError("data.path is empty; give the folder of the data set")
    if is_name(layout):
        records = find(layout, "data.layout")(path, split, subject_label)
    elif layout == "datasets":
        records = open_datasets(path, split)
    else:
        records = _open_folder(find_folder(path), layout, split, subject_label)
    if not records:
        raise InputError(f"{records.listing} lists no pictures")
    return records


def _open_folder(root: Location, layout: str, split: str, subject_label: str | None) -> Records:
    openers: dict[str, Callable[[Location, str, str | None], Records]] = {
        "ffhq": open_ffhq,
        "imagefolder": open_imagefolder,
        "datasets": lambda root, split, _: open_datasets(root, split),
        "packed": _open_packed,
    }
    return openers[_detect(root) if layout == "auto" else layout](root, split, subject_label)


def _detect(root: Location) -> Literal["imagefolder", "ffhq", "datasets", "packed"]:
    listings = {METADATA: "imagefolder", INDEX: "packed"}
    listings |= dict.fromkeys(SPLITS.values(), "ffhq") | dict.fromkeys(SAVED, "datasets")
    # Not is_file(): in older etils it is true of files that are not in the bucket.
    found: set[Any] = {layout for name, layout in listings.items() if (root / name).exists()}
    if len(found) > 1:
        raise InputError(
            f"{root} has several of {METADATA}, image_ids*.txt, {', '.join(SAVED)} and {INDEX}; "
            f"set the layout to one of {', '.join(sorted(found))}"
        )
    if not found:
        what = "is empty" if not any(root.iterdir()) else "is no data set"
        raise InputError(
            f"{root} {what}: it has neither {METADATA} (layout imagefolder) nor image_ids.txt "
            f"(layout ffhq) nor {' or '.join(SAVED)} (layout datasets) nor {INDEX} (layout "
            "packed); moa_jax/data/records.py names the modules that say what they look like"
        )
    return found.pop()


def _open_packed(root: Location, split: str, subject_label: str | None) -> Records[bytes]:
    listing = root / INDEX
    require(listing, "layout packed")
    shards = Shards(root)
    source = shards.index["source"]
    if split not in ("all", source["split"]):
        raise InputError(f"split {split!r}: {root} was packed with {source['split']!r}")
    if source["layout"] == "ffhq" and subject_label != source["subject_label"]:
        raise InputError(
            f"subject label {subject_label!r}: {root} was packed with "
            f"{source['subject_label'] or 'none'!r}; give that, or pack the source again"
        )
    return Records(shards, _parse_packed, listing, "packed", shards.sizes)


def _parse_packed(data: bytes) -> Record:
    row = decode_record(data)
    subjects = tuple(
        Subject(
            Blob(f"packed mask {count}", subject["mask"]),
            word_end(row["caption"], subject["end"]),
            (*subject["box"],),
            _parse_references(subject.get("references", ()), count),
        )
        for count, subject in enumerate(row["subjects"], start=1)
    )
    image = Blob("packed picture", row["image"])
    sample = row["sample_subjects"]
    return Record(row["name"], image, row["caption"], subjects, sample_subjects=sample)


def _parse_references(entries: Sequence[Mapping[str, Any]], count: int) -> tuple[Reference, ...]:
    """Give the references of the subject of this count, which counts from 1."""
    references = []
    for number, entry in enumerate(entries, start=1):
        name = f"packed reference {number} of subject {count}"
        mask = None if entry["mask"] is None else Blob(f"mask of {name}", entry["mask"])
        references.append(Reference(Blob(name, entry["image"]), mask))
    return tuple(references)
