"""Make a training example of a record: read, check, crop, augment and drop.

Only `read_record` says what is wrong with a record; training and the check of a data set both call
it. `make_example` is a pure function of the record in memory and of a random generator.
Source: FastComposer's released code [FC]; what is our choice is marked [ours].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from moa_jax.config import DataConfig
from moa_jax.data.augment import augment_subject, crop_target, cut_out, prepare_subject
from moa_jax.data.buckets import Fit, Size
from moa_jax.data.captions import Tokenizer, encode_words
from moa_jax.data.files import File
from moa_jax.data.images import bounds, load_image, load_mask, require_mask_of
from moa_jax.data.record import Box, Record, Subject
from moa_jax.data.references import LoadedReference, load_reference
from moa_jax.errors import InputError

T = TypeVar("T")

Example = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class LoadedSubject:
    """A subject in memory.

    Attributes:
        end: number of characters of the caption up to the end of its word.
        box: x1, y1, x2, y2 in pixels, inside the picture.
        references: other pictures of the subject, of which the first is shown.
    """

    mask: Bool[np.ndarray, "H W"]
    end: int
    box: Box
    references: tuple[LoadedReference, ...] = ()


@dataclass(frozen=True, eq=False)
class LoadedRecord:
    """A record in memory that was checked and has no fault."""

    image: Image.Image
    caption: str
    subjects: tuple[LoadedSubject, ...]
    sample_subjects: bool


@runtime_checkable
class Captioned(Protocol):
    """What `teach` needs of a record; each subject has an `end` like that of `LoadedSubject`."""

    caption: str
    subjects: Sequence[Any]
    sample_subjects: bool


def faults(record: Record, max_subjects: int, tokenizer: Tokenizer | None = None) -> list[str]:
    """List every fault of a record; only a tokenizer finds a word past the last token that fits."""
    return read_record(record, max_subjects, tokenizer)[1]


def read_record(
    record: Record, max_subjects: int, tokenizer: Tokenizer | None = None, fit: Fit | None = None
) -> tuple[LoadedRecord | None, list[str]]:
    """Read a record's files and find its faults.

    Args:
        fit: the sizes to which pictures are cropped; one that would lose too much has a fault. None
            means that any picture is cropped.

    Returns:
        The record in memory (None if it has a fault), and its faults.
    """
    found = list(record.faults)
    if len(record.subjects) > max_subjects and not record.sample_subjects:
        found.append(f"{len(record.subjects)} subjects, but {max_subjects} are supported")
    image = _attempt(found, load_image, record.image) if record.image else None
    if image and fit and (fault := fit.fault(image.size)):
        found.append(fault)
    instances = _attempt(found, _load_instances, record.instance_map)
    subjects = []
    for count, subject in enumerate(record.subjects, start=1):
        loaded = _attempt(found, _load_subject, subject, count, image, instances)
        references = [
            _attempt(found, load_reference, each, f"reference {number} of subject {count}")
            for number, each in enumerate(subject.references, start=1)
        ]
        if loaded:
            subjects.append(replace(loaded, references=tuple(filter(None, references))))
    if tokenizer is not None:
        ends = {subject.end for subject in record.subjects if subject.end is not None}
        _attempt(found, encode_words, tokenizer, record.caption, sorted(ends))
    if found or image is None:
        return None, found
    return LoadedRecord(image, record.caption, tuple(subjects), record.sample_subjects), []


def make_example(
    record: LoadedRecord,
    random: np.random.Generator,
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    max_subjects: int,
    subject_resolution: int,
    size: Size | None = None,
    latents: Float[np.ndarray, "2 h w C2"] | None = None,
) -> Example:
    """Make a training example.

    A subject outside the crop counts as dropped, because there is no mask to learn it from
    [ours]. The word of a dropped subject stays in the caption. A subject that has references is
    shown by the first; `moa_jax.data.references.draw_references` leaves the one to show.

    Args:
        config: its resolution, augment, condition_dropout and subject_dropout are used.
        subject_resolution: side of a subject's picture, in pixels.
        size: width and height in pixels; None means a square of config.resolution.
        latents: of the picture cropped to this size, as it is and flipped, to give in its place.

    Returns:
        One row of a batch: image or latents, masks, subject_images, subject_tokens,
        subject_present, input_ids.
    """
    flip = config.augment and random.random() < 0.5
    masks = [subject.mask for subject in record.subjects]
    size = size or (config.resolution, config.resolution)
    image, masks = crop_target(record.image, masks, size, flip)
    kept, taught = teach(record, masks, random, config, tokenizer, max_subjects, size)
    prepare = augment_subject if config.augment else _prepare
    pictures = [
        prepare(_show(record.image, subject, random), subject_resolution, random)
        for subject in (record.subjects[index] for index in kept)
    ]
    small = (max_subjects, subject_resolution, subject_resolution, 3)
    subject_images = _fill(small, np.uint8, 0, pictures)
    # A flipped picture is a view with a negative stride, and latents are a view of a file.
    target = {"image": np.ascontiguousarray(image)}
    if latents is not None:
        target = {"latents": np.array(latents[int(flip)])}
    return {**target, "subject_images": subject_images, **taught}


def teach(
    record: Captioned,
    masks: Sequence[Bool[np.ndarray, "height width"]],
    random: np.random.Generator,
    config: DataConfig,
    tokenizer: Tokenizer,
    max_subjects: int,
    size: Size,
) -> tuple[list[int], Example]:
    """Choose an example's caption and its subjects.

    Args:
        masks: the masks of the record's subjects on the cropped picture.
        size: width and height of that picture, in pixels.

    Returns:
        Indices of the subjects that are kept, and their part of the example: masks,
        subject_tokens, subject_present, input_ids.
    """
    caption, kept = record.caption, []
    if random.random() < config.condition_dropout:
        caption = ""
    else:
        kept = [index for index, mask in enumerate(masks) if mask.any()]
        kept = [index for index in kept if random.random() >= config.subject_dropout]
        kept = _choose(record, kept, max_subjects, random)
    ends = [record.subjects[index].end for index in kept]
    encoded = encode_words(tokenizer, caption, ends)
    input_ids, (width, height) = encoded.input_ids, size
    return kept, {
        "masks": _fill((max_subjects, height, width), np.uint8, 0, [masks[i] for i in kept]),
        "subject_tokens": _fill((max_subjects,), np.int32, len(input_ids), encoded.subject_tokens),
        "subject_present": np.arange(max_subjects) < len(kept),
        "input_ids": input_ids,
    }


def _choose(
    record: Captioned,
    kept: list[int],
    max_subjects: int,
    random: np.random.Generator,
) -> list[int]:
    """Keep at most `max_subjects` subjects, each with its own word, in the caption's order."""
    if record.sample_subjects:
        kept = [kept[place] for place in random.permutation(len(kept))]
    # One subject a word: of several, the last in this order stays.
    by_word = {record.subjects[index].end: index for index in kept}
    chosen = list(by_word.values())[:max_subjects]
    return sorted(chosen, key=lambda index: record.subjects[index].end)


def _show(image: Image.Image, subject: LoadedSubject, random: np.random.Generator) -> Image.Image:
    """Give the picture of a subject that the model is shown: a reference, or its own crop."""
    if subject.references:
        return subject.references[0].show(random)
    return cut_out(image, subject.mask, subject.box, random)


def _prepare(
    image: Image.Image, size: int, random: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    return prepare_subject(image, size)


def _fill(shape: tuple[int, ...], dtype: Any, empty: int, values: Sequence[Any]) -> np.ndarray:
    filled = np.full(shape, empty, dtype)
    for index, value in enumerate(values):
        filled[index] = value
    return filled


def _attempt(found: list[str], function: Callable[..., T], *args: Any) -> T | None:
    """Call a function; if it raises an InputError, add that to the faults found."""
    try:
        return function(*args)
    except InputError as error:
        found.append(str(error))
        return None


def _load_instances(file: File | None) -> Int[np.ndarray, "H W"] | None:
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            instances = np.load(opened, allow_pickle=False)  # a pickle could run code
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: cannot be read as an npy file ({error})") from error
    if not isinstance(instances, np.ndarray) or instances.ndim != 2:
        raise InputError(f"{file}: is not an array of rows and columns")
    if not np.can_cast(instances.dtype, np.int64) and not np.all(instances == instances.round()):
        raise InputError(f"{file}: holds {instances.dtype}, not whole numbers")
    return instances.astype(np.int64)


def _load_subject(
    subject: Subject,
    count: int,
    image: Image.Image | None,
    instances: Int[np.ndarray, "H W"] | None,
) -> LoadedSubject | None:
    """Load a subject; None if an earlier fault leaves nothing to check it against."""
    if not isinstance(subject.mask, int):
        what = f"{subject.mask} (the mask of subject {count})"
        mask = load_mask(subject.mask)
    elif instances is None:
        return None
    else:
        what = f"segment id {subject.mask} (subject {count})"
        mask = instances == subject.mask
    require_mask_of(mask, image, what)
    if image is None:
        return None
    height, width = mask.shape
    left, top, right, bottom = subject.box or bounds(mask)
    box = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    if not mask[box[1] : max(box[1], box[3]), box[0] : max(box[0], box[2])].any():
        raise InputError(f"{what}: its box {subject.box} holds none of its pixels")
    return None if subject.end is None else LoadedSubject(mask, subject.end, box)
