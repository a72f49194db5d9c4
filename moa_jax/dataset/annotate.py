"""Turn one photograph into a row of `metadata.jsonl`: caption, words, masks, faces.

The picture and its masks are written; what was left out, and why, is told beside the row.
"""

import base64
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moa_jax.data.captions import IMAGE_MARKER
from moa_jax.data.examples import faults
from moa_jax.data.record import Record, caption_faults, find_subjects
from moa_jax.dataset.binding import Binding, Bound, bind, name_words, shorten
from moa_jax.dataset.files import Folder
from moa_jax.dataset.models import Mask, Models
from moa_jax.dataset.nouns import PEOPLE, is_one_of, parse_wanted
from moa_jax.dataset.options import Options
from moa_jax.dataset.quality import FACE_SIDE, cut_share, fill, fit_to_box, mask_overlap, sharpness
from moa_jax.dataset.source import Photograph, files_of, load_photograph
from moa_jax.faces.recognizer import Recognizer


@dataclass(frozen=True, eq=False)
class Subject:
    """A subject with its mask.

    Attributes:
        embedding: of its face, of length 1; None where no face was looked for.
    """

    bound: Bound
    mask: Mask
    embedding: np.ndarray | None = None


class Annotator:
    """Annotates photographs; threads may call it, each with networks of its own."""

    def __init__(self, folder: Folder, options: Options, recognizer: Recognizer | None) -> None:
        """Prepare to write to a folder."""
        self.folder, self.options, self.recognizer = folder, options, recognizer
        self._wanted = parse_wanted(options.subjects)
        self._lock = threading.Lock()  # a recognizer need not stand threads

    def annotate(self, photograph: Photograph, models: Models) -> dict[str, Any]:
        """Annotate a photograph and write its files.

        Returns:
            What the journal keeps: "row" and what is told beside it; or "dropped", the reason.
        """
        if photograph.row is not None:
            return self._take_over(photograph, photograph.row)
        image, kept = load_photograph(photograph.file)
        binding, tried = self._bind(image, photograph.caption, models)
        left_out = list(binding.left_out)
        subjects = self._subjects(image, binding, models, left_out)
        told = {"left_out": left_out, "captions": tried}
        if not subjects:
            reason = left_out[0] if left_out else f"no subject: {binding.caption!r} names none"
            return {"dropped": reason, **told}
        name = self.folder.save_picture(photograph, image, kept)
        words = name_words(binding.caption, [each.bound.noun for each in subjects])
        entries = []
        for count, (subject, word) in enumerate(zip(subjects, words, strict=True)):
            mask = self.folder.save_mask(photograph.name, count, subject.mask)
            entries.append({"mask": mask, "word": word})
        row = {"file_name": name, "text": binding.caption, "subjects": entries}
        boxes = [[round(side, 1) for side in each.bound.box] for each in subjects]
        faces = [_encode(each.embedding) for each in subjects]
        return {"row": row, "boxes": boxes, "faces": faces, **told}

    def _take_over(self, photograph: Photograph, row: dict[str, Any]) -> dict[str, Any]:
        """Copy what was made by hand; only what training could not read is refused."""
        root = photograph.file.parents[photograph.name.count("/")]
        entries, caption = row["subjects"], row.get("text") or photograph.caption or ""
        subjects, wrong = find_subjects(caption, entries, str, lambda mask: root / mask)
        wrong += caption_faults(caption)
        wrong += [f"{each!r} is no file in SRC" for each in files_of(row) if not _in(root, each)]
        image, kept = load_photograph(photograph.file)
        name = self.folder.save_picture(photograph, image, kept)
        file = self.folder.path / name
        record = Record(name, file, caption, subjects, faults=tuple(wrong))
        if found := faults(record, self.options.max_subjects):
            return {"dropped": f"row by hand: {'; '.join(found)}", "left_out": []}
        copied = {"file_name": name, "text": caption}
        copied["subjects"] = [self.folder.copy_files(root, entry) for entry in entries]
        return {"row": row | copied, "boxes": [], "faces": [], "left_out": [], "by_hand": True}

    def _bind(
        self, image: Image.Image, caption: str | None, models: Models
    ) -> tuple[Binding, list[str]]:
        """Caption a picture until nothing is ambiguous; else take the caption that binds most.

        Returns:
            The best caption with its subjects, and all captions that were tried.
        """
        best, tried = None, []
        for attempt in range(1 if caption else models.captioner.attempts):
            text = caption or self._caption(image, models, attempt)
            tried.append(text)
            found = bind(text, models.grounder.ground(image, text), self._wanted)
            if best is None or len(found.subjects) > len(best.subjects):
                best = found
            if not found.left_out:  # nothing is ambiguous, or nobody is there
                best = found if found.subjects else best
                break
        assert best is not None  # a captioner gives one caption at least
        return best, tried

    def _caption(self, image: Image.Image, models: Models, attempt: int) -> str:
        given = models.captioner.caption(image, attempt).replace(IMAGE_MARKER, "")
        return shorten(" ".join(given.split()))

    def _subjects(
        self, image: Image.Image, binding: Binding, models: Models, left_out: list[str]
    ) -> list[Subject]:
        """Draw the masks and keep those that are good; the others' reasons are added to a list."""
        bound = binding.subjects
        if not bound:
            return []
        texts, boxes = [each.text for each in bound], [each.box for each in bound]
        masks = models.segmenter.segment(image, texts, boxes)
        if len(masks) != len(bound) or any(mask.shape != image.size[::-1] for mask in masks):
            raise ValueError("a segmenter gives a mask for each subject, as large as the picture")
        kept: list[Subject] = []
        for each, mask in zip(bound, masks, strict=True):
            subject = Subject(each, fit_to_box(mask, each.box))
            reason = self._mask_fault(subject, kept)
            if reason is None:
                kept.append(subject)
            else:
                left_out.append(f"{reason}, {each.text!r}")
        if self.recognizer is not None and kept:
            kept = self._with_faces(image, kept, left_out)
        largest = sorted(kept, key=lambda each: -int(each.mask.sum()))
        chosen = largest[: self.options.max_subjects]
        left_out += [f"too many: {each.bound.text!r}" for each in kept if each not in chosen]
        return [each for each in kept if each in chosen]

    def _mask_fault(self, subject: Subject, kept: Sequence[Subject]) -> str | None:
        """Say why a mask is not taken; None if it is."""
        mask, options = subject.mask, self.options
        filled, area = fill(mask, subject.bound.box), float(mask.mean())
        cut = cut_share(mask)
        if filled < options.min_fill:
            return f"poor mask: it fills {filled:.0%} of its box"
        if area < options.min_area:
            return f"small subject: {area:.1%} of the picture"
        if cut > options.max_cut:
            return f"cut off: an edge of the picture cuts {cut:.0%}"
        if any(mask_overlap(mask, other.mask) > 0.8 for other in kept):
            return "poor mask: it is that of another subject too"
        return None

    def _with_faces(
        self, image: Image.Image, subjects: Sequence[Subject], left_out: list[str]
    ) -> list[Subject]:
        """Leave out people whose face is missing, small, blurred or cut; embed the others'."""
        with self._lock:
            faces = self.recognizer.find(image)
        kept = []
        for subject in subjects:
            own = [face for face in faces if _inside(face.box, subject.mask)]
            if len(own) == 1 and (reason := self._face_fault(image, own[0].box)) is None:
                with self._lock:
                    embedding = self.recognizer.embed(image, own)[0]
                kept.append(Subject(subject.bound, subject.mask, embedding))
                continue
            if len(own) != 1:
                reason = f"faces: {len(own)} in its mask"
            if is_one_of(subject.bound.noun.text, PEOPLE):
                left_out.append(f"{reason}, {subject.bound.text!r}")
            else:
                kept.append(subject)
        return kept

    def _face_fault(self, image: Image.Image, box: Sequence[float]) -> str | None:
        """Say why a face is not taken; None if it is."""
        left, top, right, bottom = box
        side = min(right - left, bottom - top)
        if side < self.options.min_face:
            return f"small face: {side:.0f} pixels"
        if left < 0 or top < 0 or right > image.width or bottom > image.height:
            return "cut face: it passes the edge of the picture"
        crop = image.crop((int(left), int(top), int(right), int(bottom)))
        sharp = sharpness(crop, FACE_SIDE)
        if sharp < self.options.min_sharpness:
            return f"blurred face: sharpness {sharp:.0f}"
        return None


def _in(root: Path, name: str) -> bool:
    """Tell whether a folder has a file of that name; a name that leads out of it counts as none."""
    file = root / name
    return file.is_file() and file.resolve().is_relative_to(root.resolve())


def _inside(box: Sequence[float], mask: Mask) -> bool:
    """Tell whether the centre of a box is on a mask."""
    x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


def _encode(embedding: np.ndarray | None) -> str | None:
    """Write an embedding as text, as float32."""
    if embedding is None:
        return None
    return base64.b64encode(np.asarray(embedding, "<f4").tobytes()).decode()


def decode_face(text: str) -> np.ndarray:
    """Read an embedding that the journal keeps."""
    return np.frombuffer(base64.b64decode(text), "<f4")
