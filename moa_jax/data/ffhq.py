"""The layout `ffhq`: a folder as FastComposer released its data [FC].

`<root>/<id[:5]>/<id>.{jpg,json,npy}`, with `image_ids.txt` (and `image_ids_train.txt`,
`image_ids_test.txt`) listing the ids. The json has `caption` and `segments`, each
`{id, bbox: [x1, y1, x2, y2], coco_label, end}`: `end` counts the caption's characters before the
end of the subject's word. The npy holds each pixel's segment id.
"""

import json
from functools import partial
from typing import Any

from moa_jax.data.captions import end_fault, word_end
from moa_jax.data.files import Location
from moa_jax.data.record import Box, Record, Records, Subject, caption_faults, missing, require

SPLITS = {"all": "image_ids.txt", "train": "image_ids_train.txt", "test": "image_ids_test.txt"}


def open_ffhq(root: Location, split: str, subject_label: str | None) -> Records[str]:
    """List the records of a folder of this layout; see `open_records`."""
    listing = root / SPLITS[split]
    require(listing, f"layout ffhq, split {split!r}")
    ids = [line.strip() for line in listing.read_text().splitlines()]
    parse = partial(_parse, root, subject_label)
    return Records([id for id in ids if id], parse, listing, "ffhq")


def _parse(root: Location, subject_label: str | None, id: str) -> Record:
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
    faults = missing(info, {"caption": str, "segments": list})
    if faults:
        return record(faults=tuple(f"{path}: {fault}" for fault in faults))
    caption, subjects = info["caption"], []
    for place, segment in enumerate(info["segments"]):
        label = segment.get("coco_label") if isinstance(segment, dict) else subject_label
        if subject_label is not None and str(label) != subject_label:
            continue
        wrong = missing(segment, {"id": int, "bbox": list, "end": int})
        box = None if wrong else _to_box(segment["bbox"])
        if wrong or box is None:
            wrong = wrong or [f"bbox {segment['bbox']} is not four numbers x1, y1, x2, y2"]
            faults += [f"segment {place}: {fault}" for fault in wrong]
            continue
        fault = end_fault(caption, segment["end"])
        faults += [f"segment {place} (id {segment['id']}): {fault}"] if fault else []
        end = None if fault else word_end(caption, segment["end"])
        subjects.append(Subject(segment["id"], end, box))
    faults += caption_faults(caption)
    return record(caption, tuple(subjects), sample_subjects=True, faults=tuple(faults))


def _to_box(values: list[Any]) -> Box | None:
    try:
        x1, y1, x2, y2 = (int(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return None
    return x1, y1, x2, y2
