"""What a record of a data set is, and what all layouts check in the same way.

Each layout's module (`ffhq`, `imagefolder`, `hub_datasets`, `packed`) lists `Records`. A record
keeps its own faults; a fault of the folder is raised. No pixel is read here.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from moa_jax.data.captions import IMAGE_MARKER, find_word, word_end
from moa_jax.data.files import Blob, File, Location
from moa_jax.data.images import Box
from moa_jax.data.packed import INDEX
from moa_jax.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Reference:
    """Another picture of a subject, to be shown in place of the subject's own crop.

    Attributes:
        mask: file of the subject's mask on this picture; None if it shows that subject alone.
    """

    image: File
    mask: File | None = None


@dataclass(frozen=True)
class Subject:
    """A subject of a picture.

    Attributes:
        mask: file of its mask, or its segment id in the record's instance map.
        end: characters of the caption up to the end of its word (`word_end`); None if not found.
        box: x1, y1, x2, y2 in pixels; None means the bounds of its mask.
        references: other pictures of the same subject.
    """

    mask: File | int
    end: int | None
    box: Box | None = None
    references: tuple[Reference, ...] = ()


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
    """The records of a data set, each parsed when it is asked for.

    Attributes:
        listing: the file that lists them; or bytes that tell all of the data set's content, where
            no file does.
        layout: the name of the layout that was read; None if it is a reader of the user's own.
        sizes: width and height of each picture in pixels, where the layout knows them unread.
    """

    def __init__(
        self,
        sources: Sequence[T],
        parse: Callable[[T], Record],
        listing: Location | Blob,
        layout: str | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ):
        self._sources, self._parse = sources, parse
        self.listing, self.layout, self.sizes = listing, layout, sizes

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Records[T]": ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            sizes = None if self.sizes is None else self.sizes[index]
            return Records(self._sources[index], self._parse, self.listing, self.layout, sizes)
        return self._parse(self._sources[index])


def require(listing: Location, layout: str) -> None:
    """Refuse a folder that lacks the file of its layout.

    Raises:
        InputError: there is no such file; the message says so if the folder is a packed one.
    """
    if not listing.exists():
        packed = "; the folder is packed: set the layout to packed"
        hint = packed if (listing.parent / INDEX).exists() else ""
        raise InputError(f"{listing}: no such file ({layout}){hint}")


def missing(row: Any, keys: dict[str, Any]) -> list[str]:
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


def find_subjects(
    caption: str, entries: Sequence[Any], file_kind: Any, to_file: Callable[[Any], File]
) -> tuple[tuple[Subject, ...], list[str]]:
    """Find the word of each subject in the caption, and other pictures of the subject.

    Args:
        entries: of each subject an object with `mask`, `word` and perhaps `reference`. `word` may
            be a phrase; if subjects share a word, the n-th takes its n-th occurrence.
        file_kind: type by which entries name files, or a union of types.
        to_file: gives the file that is named.

    Returns:
        The subjects whose entry is complete, and the faults of all.
    """
    subjects: list[Subject] = []
    faults = []
    seen: Counter[str] = Counter()
    for count, entry in enumerate(entries, start=1):
        if wrong := missing(entry, {"mask": file_kind, "word": str}):
            faults += [f"subject {count}: {fault}" for fault in wrong]
            continue
        references, wrong = _find_references(entry.get("reference"), file_kind, to_file)
        faults += [f"subject {count}, {fault}" for fault in wrong]
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
        subjects.append(Subject(to_file(entry["mask"]), end, references=references))
    return tuple(subjects), faults


def _find_references(
    given: Any, file_kind: Any, to_file: Callable[[Any], File]
) -> tuple[tuple[Reference, ...], list[str]]:
    """Read a subject's `reference`: one picture, a list of them, or nothing.

    Args:
        given: a picture is the name of its file, or an object with `image` and perhaps `mask`.

    Returns:
        The references whose entry is complete, and the faults of all.
    """
    listed = given if isinstance(given, list) else [] if given is None else [given]
    references, faults = [], []
    for count, entry in enumerate(listed, start=1):
        named = {"image": entry} if isinstance(entry, file_kind) else entry
        masked = isinstance(named, dict) and named.get("mask") is not None
        if wrong := missing(named, dict.fromkeys(("image", "mask")[: 1 + masked], file_kind)):
            faults += [f"reference {count}: {fault}" for fault in wrong]
            continue
        mask = to_file(named["mask"]) if masked else None
        references.append(Reference(to_file(named["image"]), mask))
    return tuple(references), faults


def caption_faults(caption: str) -> list[str]:
    """List what is wrong with a caption whatever its subjects are."""
    if IMAGE_MARKER not in caption:
        return []
    return [f"the caption has the marker {IMAGE_MARKER}; say which words are subjects instead"]
