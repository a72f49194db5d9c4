"""Build a data set from a folder of photographs: look, leave out copies, annotate, pair, list.

Every finished picture is a line of the journal, so that a run that was killed goes on where it
stopped. `metadata.jsonl` is written last: a folder without it is not finished.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from moa_jax.cli import Bar
from moa_jax.dataset.annotate import Annotator
from moa_jax.dataset.files import Folder, writing
from moa_jax.dataset.finish import Report, Run, finish
from moa_jax.dataset.journal import Journal
from moa_jax.dataset.models import Models
from moa_jax.dataset.options import Filter, Options
from moa_jax.dataset.quality import find_duplicates, picture_hash, sharpness
from moa_jax.dataset.source import Photograph, load_photograph, scan
from moa_jax.errors import InputError
from moa_jax.faces.recognizer import Recognizer

FORMAT = 1


def build(
    source: str | Path,
    destination: str | Path,
    models: Sequence[Models],
    options: Options | None = None,
    *,
    recognizer: Recognizer | None = None,
    pair: bool = False,
    refuse: Filter | None = None,
    refuse_name: str | None = None,
    workers: int = 8,
) -> Report:
    """Build a data set of the layout `imagefolder`, or go on with one that was begun.

    Args:
        source: the folder of photographs; see `moa_jax.dataset.source`.
        destination: a new folder, or one that the same options began.
        models: the networks of each device; each set is used by one thread at a time.
        options: None means the defaults.
        recognizer: of faces: people whose face is missing, small, blurred or cut are left out.
        pair: find the same person in two pictures; it needs a recognizer.
        refuse: gives the reason why a picture is not to be used, or None; one thread calls it.
        refuse_name: what the data set's card calls that function.
        workers: threads that read pictures.

    Raises:
        InputError: a folder or option must be changed, no picture is left, or the disk is full.
    """
    options = options or Options()
    if pair and recognizer is None:
        raise InputError("pair needs a recognizer of faces; give one (--faces dlib)")
    destination = Path(destination)
    photographs = find_photographs(Path(source), destination)
    state = _state(models[0], options, recognizer, pair, refuse, refuse_name)
    with writing(destination):
        folder = Folder(destination)
        folder.start(state)
        run = Run(folder, Journal(destination), photographs, options)
        _look(run, refuse, workers)
        _leave_out_copies(run)
        made = _annotate(run, Annotator(folder, options, recognizer), models)
        below = None
        if pair and recognizer is not None:
            below = options.pair_distance
            below = recognizer.same_person if below is None else below
        return finish(run, state, made, below)


def find_photographs(source: Path, destination: Path) -> list[Photograph]:
    """List the photographs of a folder, and see that the other lies elsewhere.

    Raises:
        InputError: one folder is inside the other; or as `scan`.
    """
    one, other = destination.resolve(), source.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise InputError(
            f"DST {str(destination)!r} and SRC {str(source)!r} lie in one another, so pictures "
            "would be read that were written; name a folder beside SRC"
        )
    return scan(source)


def _state(
    models: Models,
    options: Options,
    recognizer: Recognizer | None,
    pair: bool,
    refuse: Filter | None,
    refuse_name: str | None,
) -> dict[str, Any]:
    """Describe all that decides what is built from a picture."""
    name = refuse and (refuse_name or getattr(refuse, "__qualname__", repr(refuse)))
    faces = recognizer and f"{recognizer.name} ({recognizer.licence}; {recognizer.source})"
    told = {"faces": faces, "pair": pair, "filter": name}
    return {"format": FORMAT, **models.about(), **told, **asdict(options)}


def _look(run: Run, refuse: Filter | None, workers: int) -> None:
    """Read every picture once: can it be read, is it large and sharp enough, what is its hash."""
    lock = threading.Lock()

    def look(photograph: Photograph) -> dict[str, Any]:
        try:
            image, _ = load_photograph(photograph.file)
        except InputError as error:
            return {"dropped": f"unreadable: {error}"}
        pixels = image.width * image.height
        seen = {"pixels": pixels, "hash": f"{picture_hash(image):016x}"}
        if photograph.row is not None:
            return seen
        sharp = sharpness(image)
        if min(image.size) < run.options.min_side:
            return {"dropped": f"small picture: {image.width}x{image.height} pixels"}
        if sharp < run.options.min_sharpness:
            return {"dropped": f"blurred: sharpness {sharp:.0f}"}
        with lock:
            reason = refuse(image) if refuse else None
        return {"dropped": f"filter: {reason}"} if reason else seen

    for photograph, entry in _done(run, "look", look, workers, run.photographs):
        _keep(run, photograph, entry)


def _annotate(run: Run, annotator: Annotator, models: Sequence[Models]) -> int:
    """Annotate what is left, one picture at a time on each device; give the number made now."""
    free: SimpleQueue[Models] = SimpleQueue()
    for each in models:
        free.put(each)
    made = []

    def annotate(photograph: Photograph) -> dict[str, Any]:
        own = free.get()
        try:
            entry = annotator.annotate(photograph, own)
        finally:
            free.put(own)
        made.append(photograph.name)
        return entry

    left = [each for each in run.photographs if each.name not in run.dropped]
    for photograph, entry in _done(run, "annotate", annotate, len(models), left):
        _keep(run, photograph, entry)
    return len(made)


def _done(
    run: Run,
    part: str,
    work: Callable[[Photograph], dict[str, Any]],
    workers: int,
    photographs: Iterable[Photograph],
) -> Iterator[tuple[Photograph, dict[str, Any]]]:
    """Do a part of the work for each photograph whose entry is not in the journal yet."""
    missing = []
    for photograph in photographs:
        entry = run.journal.find(part, photograph.name, photograph.stamp)
        if entry is None:
            missing.append(photograph)
        else:
            yield photograph, entry

    def make(photograph: Photograph) -> dict[str, Any]:
        try:
            entry = work(photograph)
        except Exception as error:
            error.add_note(f"while working on the picture {photograph.name}")
            raise
        run.journal.add(part, photograph.name, photograph.stamp, entry)
        return entry

    doing = {"look": "looking at pictures", "annotate": "captions, words, masks"}[part]
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        with Bar(doing, len(missing)) as bar:
            futures = {pool.submit(make, photograph): photograph for photograph in missing}
            for future in as_completed(futures):
                yield futures[future], future.result()
                bar.advance()
    finally:
        pool.shutdown(cancel_futures=True)


def _keep(run: Run, photograph: Photograph, entry: dict[str, Any]) -> None:
    """Take an entry over; the latest part that tells of a picture counts."""
    run.entries[photograph.name] = entry
    if "dropped" in entry:
        run.dropped[photograph.name] = entry["dropped"]


def _leave_out_copies(run: Run) -> None:
    """Of pictures that look the same keep one: that with a row by hand, or else the largest."""
    if run.options.duplicate_distance < 0:
        return
    left = [each for each in run.photographs if each.name not in run.dropped]
    left.sort(key=lambda each: (each.row is None, -run.entries[each.name]["pixels"]))
    hashes = [int(run.entries[each.name]["hash"], 16) for each in left]
    for place, other in find_duplicates(hashes, run.options.duplicate_distance).items():
        if left[place].row is None:
            run.dropped[left[place].name] = f"copy: looks like {left[other].name}"
