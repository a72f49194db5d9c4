"""The layout `datasets`: a data set of Hugging Face's library of that name, with these columns.

- `image`: `Image()`.
- `text`, or `caption` where there is no `text`: `Value("string")`.
- `subjects`: `List({"mask": Image(), "word": Value("string")})`. Or two columns of equal lengths:
  `masks`, `List(Image())`, and `words`, `List(Value("string"))`. A row without subjects has empty
  lists or null: such a picture teaches its text only.

Subjects may have references: a field `reference` of the struct, or a third column `references` with
an element for each subject. It is one picture or a list of them, each `Image()`, or
`{"image": Image(), "mask": Image()}` where the mask may be null. It is null where there is none.

`moa_jax.data.imagefolder` says what masks, words and references are. Other columns are never read.

The rows stay in their Arrow files, which are mapped into memory; each is read when it is asked for.
The library decodes nothing: a record has the bytes of picture files, which are then read as those
of every other layout.
"""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moa_jax.data.files import Blob, File, Location, copy_of, is_remote
from moa_jax.data.record import Record, Records, caption_faults, find_subjects
from moa_jax.errors import InputError
from moa_jax.extension import import_extra

SAVED = ("dataset_dict.json", "dataset_info.json")  # what `save_to_disk` leaves in a folder

IMAGE, TEXT = "Image", "string"  # as `_outline` names these types
CAPTIONS = ("text", "caption")
WAYS = (  # of giving subjects; the second is what the library makes of a `Sequence` of structs
    {"subjects": [{"mask": IMAGE, "word": TEXT}]},
    {"subjects": {"mask": [IMAGE], "word": [TEXT]}},
    {"masks": [IMAGE], "words": [TEXT]},
)
MASKED = {"image": IMAGE, "mask": IMAGE}
REFERENCES = (IMAGE, [IMAGE], MASKED, [MASKED])  # ways of giving those of one subject


@dataclass(frozen=True)
class _Split:
    """A part of a data set.

    Attributes:
        name: its name; None if the data set has no splits.
        rows: the `Dataset`, which gives Arrow tables.
        first: number of rows in the splits before it.
    """

    name: str | None
    rows: Any
    first: int


def open_datasets(path: str | Path | Location, split: str = "all") -> Records[int]:
    """List the records of a data set of `datasets`.

    Args:
        path: a folder that `save_to_disk` wrote; or what `load_dataset` takes, which is an id on
            the Hugging Face Hub or a folder of Parquet files. The latter two are first converted
            in the library's cache.
        split: see `dataset_records`.

    Raises:
        InputError: `datasets` is not installed or cannot open the data set; it is in a bucket; or
            as `dataset_records`.
    """
    if is_remote(path):
        raise InputError(
            f"{path}: the layout datasets maps files of a local disk into memory, and does not "
            f"stream them; {copy_of(path)}"
        )
    datasets = _library(path)
    saved = any((Path(path) / name).exists() for name in SAVED)
    try:
        found = datasets.load_from_disk(path) if saved else datasets.load_dataset(str(path))
    except Exception as error:  # of the Hub, the network, pyarrow, the disk, ...
        where = "" if Path(path).is_dir() else "is no folder, and as an id on the Hugging Face Hub "
        raise InputError(
            f"data set {str(path)!r} {where}cannot be opened ({type(error).__name__}: {error})"
        ) from error
    return dataset_records(found, split, str(path))


def dataset_records(dataset: Any, split: str = "all", name: str = "the data set") -> Records[int]:
    """List the records of an opened data set; a reader of your own (`data.layout`) may call this.

    Args:
        dataset: a `Dataset` or a `DatasetDict`.
        split: "train" or "test", of a `DatasetDict`; "all" takes all its splits one after the
            other, or the whole `Dataset`.
        name: what messages call the data set.

    Raises:
        InputError: there is no such split, the columns are not those that the description of this
            module lists, or the data set is a stream.
    """
    datasets = _library(name)
    if isinstance(dataset, datasets.IterableDataset | datasets.IterableDatasetDict):
        raise InputError(
            f"{name} is a stream, which cannot be shuffled whole or resumed at any record: load it "
            "without streaming=True"
        )
    chosen = dict(dataset) if isinstance(dataset, datasets.DatasetDict) else {None: dataset}
    if split != "all":
        if split not in chosen:
            has = "no splits" if None in chosen else f"the splits {', '.join(chosen)}"
            raise InputError(f"split {split!r}: {name} has {has}; set it to 'all'")
        chosen = {split: chosen[split]}
    # Of the data sets as they came: without its other columns each has another fingerprint.
    listing = Blob(name, json.dumps([_state(each) for each in chosen.values()]).encode())
    splits, first = [], 0
    for key, part in chosen.items():
        splits.append(
            _Split(key, _undecoded(part, name if key is None else f"{name}, {key}"), first)
        )
        first += len(part)
    return Records(range(first), partial(_parse, splits), listing, "datasets")


def _library(name: Any) -> Any:
    needed = f"data set {str(name)!r}, layout datasets,"
    return import_extra("datasets", needed, "pip install 'moa_jax[datasets]'")


def _state(dataset: Any) -> Any:
    """Give what changes when the content of a data set does, without reading it.

    The library's fingerprint alone does not tell: that of `from_generator` depends on the function
    and its arguments, not on what it gave.
    """
    stats = [Path(file["filename"]).stat() for file in dataset.cache_files]
    files = [(found.st_size, found.st_mtime_ns) for found in stats]
    return dataset._fingerprint, len(dataset), files


def _undecoded(dataset: Any, name: str) -> Any:
    """Keep the columns that are read, and have them given as Arrow tables."""
    outline = {column: _outline(feature) for column, feature in dataset.features.items()}
    captions = [column for column in CAPTIONS if outline.get(column) == TEXT]
    ways = [way for way in WAYS if _holds(outline, way)]
    references = _references_of(outline, ways[0]) if ways else None
    fit = references is None or any(_holds(references, [each]) for each in REFERENCES)
    if outline.get("image") != IMAGE or not captions or not ways or not fit:
        told = ", ".join(f"{column} {_told(each)}" for column, each in outline.items())
        raise InputError(
            f"{name} has the columns {told}; it needs image Image, text (or caption) string, and "
            "subjects [{mask: Image, word: string}] (or masks [Image] with words [string]); the "
            "reference of a subject, where there is one, is Image, {image: Image, mask: Image} or "
            "a list: rename_column and cast_column of the library datasets make them so"
        )
    columns = ["image", captions[0], *ways[0]]
    if references is not None and "masks" in ways[0]:
        columns.append("references")
    return dataset.select_columns(columns).with_format("arrow")


def _references_of(outline: Mapping[str, Any], way: Mapping[str, Any]) -> Any:
    """Give the type of the references of all subjects, a list; None if there are none."""
    if "masks" in way:
        return outline.get("references")
    if isinstance(way["subjects"], dict):
        return outline["subjects"].get("reference")
    given = outline["subjects"][0].get("reference")
    return None if given is None else [given]


def _outline(feature: Any) -> Any:
    """Describe a type by names, in lists (of elements) and dicts (of a struct's fields)."""
    kind = type(feature).__name__
    if isinstance(feature, Mapping):
        return {key: _outline(each) for key, each in feature.items()}
    if kind in ("List", "LargeList"):
        return [_outline(feature.feature)]
    return feature.dtype.removeprefix("large_") if kind == "Value" else kind


def _told(outline: Any) -> str:
    return json.dumps(outline).replace('"', "")


def _holds(outline: Any, expected: Any) -> bool:
    """Tell whether a type is the expected one; structs may have further fields."""
    if isinstance(expected, dict):
        return isinstance(outline, dict) and all(
            key in outline and _holds(outline[key], each) for key, each in expected.items()
        )
    if isinstance(expected, list):
        return isinstance(outline, list) and _holds(outline[0], expected[0])
    return outline == expected


def _parse(splits: Sequence[_Split], index: int) -> Record:
    split = splits[bisect_right(splits, index, key=lambda split: split.first) - 1]
    number = index - split.first
    row = split.rows[number].to_pylist()[0]
    place = f"row {number}" if split.name is None else f"{split.name} row {number}"
    given = (row["image"] or {}).get("path")
    name = f"{Path(given).name} ({place})" if given else place
    image = _file(row["image"], "image")
    column = next(column for column in CAPTIONS if column in row)
    caption = row[column]
    faults = [f"no {key!r}" for key, each in (("image", image), (column, caption)) if each is None]
    if caption is None:
        return Record(name, image, faults=tuple(faults))
    masks, words, references = _columns(row)
    if len(masks) != len(words):
        faults.append(f"{len(masks)} masks, but {len(words)} words")
    if references and len(references) != len(masks):
        faults.append(f"{len(masks)} masks, but {len(references)} references")
    files = [_file(mask, f"mask {count}") for count, mask in enumerate(masks, start=1)]
    others = [_reference(each, count) for count, each in enumerate(references, start=1)]
    others += [None] * (len(masks) - len(others))
    entries = [
        _known({"mask": file, "word": word, "reference": other})
        for file, word, other in zip(files, words, others, strict=False)
    ]
    subjects, wrong = find_subjects(caption, entries, Path | Blob, lambda file: file)
    faults += wrong + caption_faults(caption)
    return Record(name, image, caption, subjects, faults=tuple(faults))


def _columns(row: Mapping[str, Any]) -> list[list[Any]]:
    """Give the masks, words and references of a row's subjects, whichever of WAYS it has.

    A row whose data set has no references gives an empty list of them, or one of nothing but None.
    """
    subjects, keys = row.get("subjects"), ("mask", "word", "reference")
    if isinstance(subjects, list):
        return [[(each or {}).get(key) for each in subjects] for key in keys]
    found = subjects or {key: row.get(f"{key}s") for key in keys}
    return [found.get(key) or [] for key in keys]


def _reference(given: Any, count: int) -> list[Any] | None:
    """Give the entry of a subject's references, as `find_subjects` reads it.

    Args:
        count: of the subject, from 1.
    """
    if given is None:
        return None
    entries = []
    for number, each in enumerate(given if isinstance(given, list) else [given], start=1):
        name = f"reference {number} of subject {count}"
        if each is not None and "bytes" not in each:  # a struct of two pictures, and none itself
            files = {"image": _file(each["image"], name)}
            files["mask"] = _file(each["mask"], f"mask of {name}")
            entries.append(_known(files))
        else:
            entries.append(_file(each, name))
    return entries


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _file(picture: Mapping[str, Any] | None, name: str) -> File | None:
    """Give the file of a picture: its bytes, or a path on disk; None for a null."""
    if picture is None:
        return None
    if picture["bytes"] is not None:
        return Blob(name, picture["bytes"])
    return None if picture["path"] is None else Path(picture["path"])
