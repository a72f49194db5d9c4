"""Small data sets in both layouts, made of real photographs with masks drawn by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.draw
import transformers
from PIL import Image

from moa_jax.backbone.tokenizer import write_tokenizer

# name, caption, and for each subject: its word, the centre and radii (rows, columns) of its ellipse
PICTURES = (
    ("astronaut", "a woman smiling in a suit", [("woman", (240, 210), (230, 160))]),
    ("chelsea", "photo of a cat", [("cat", (150, 210), (130, 140))]),
    (
        "coffee",
        "a hat and a book",
        [("hat", (190, 270), (120, 130)), ("book", (330, 480), (50, 80))],
    ),
    ("rocket", "a forest at night", []),
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return transformers.CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def photographs():
    """Pixels, caption and subjects (word, mask) of each picture, by name."""
    found = {}
    for name, caption, ellipses in PICTURES:
        pixels = getattr(skimage.data, name)()
        subjects = []
        for word, centre, radii in ellipses:
            mask = np.zeros(pixels.shape[:2], bool)
            mask[skimage.draw.ellipse(*centre, *radii, shape=mask.shape)] = True
            subjects.append((word, mask))
        found[name] = (pixels, caption, subjects)
    return found


@pytest.fixture(scope="session")
def small(photographs):
    """The photographs at a quarter of their size, which are four times as quick to read."""
    return {
        name: (pixels[::4, ::4], caption, [(word, mask[::4, ::4]) for word, mask in subjects])
        for name, (pixels, caption, subjects) in photographs.items()
    }


@pytest.fixture(scope="session")
def imagefolder(tmp_path_factory, small):
    """The small photographs in the imagefolder layout. Read only."""
    root = tmp_path_factory.mktemp("imagefolder")
    (root / "masks").mkdir()
    rows = []
    for name, (pixels, caption, subjects) in small.items():
        Image.fromarray(pixels).save(root / f"{name}.png")
        entries = []
        for word, mask in subjects:
            entries.append({"mask": f"masks/{name}_{word}.png", "word": word})
            Image.fromarray(mask).save(root / entries[-1]["mask"])
        rows.append({"file_name": f"{name}.png", "text": caption, "subjects": entries})
    write_rows(root, rows)
    return root


@pytest.fixture(scope="session")
def ffhq(tmp_path_factory, small):
    """The small photographs in FastComposer's layout, every subject labelled person. Read only."""
    root = tmp_path_factory.mktemp("ffhq")
    ids = []
    for number, (pixels, caption, subjects) in enumerate(small.values()):
        ids.append(f"{number:05d}{number:03d}")
        stem = root / ids[-1][:5] / ids[-1]
        stem.parent.mkdir()
        instances, segments = np.zeros(pixels.shape[:2], np.int32), []
        for id, (word, mask) in enumerate(subjects, start=1):
            instances[mask] = id
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            segments.append(
                {
                    "id": id,
                    "bbox": [int(side) for side in box],
                    "coco_label": "person",
                    "end": caption.index(word) + len(word),
                }
            )
        Image.fromarray(pixels).save(stem.with_suffix(".jpg"), quality=95)
        np.save(stem.with_suffix(".npy"), instances)
        stem.with_suffix(".json").write_text(json.dumps({"caption": caption, "segments": segments}))
    (root / "image_ids.txt").write_text("\n".join(ids) + "\n")
    (root / "image_ids_train.txt").write_text("\n".join(ids[:3]) + "\n")
    (root / "image_ids_test.txt").write_text(ids[3] + "\n")
    return root


@pytest.fixture
def save_rows():
    """Write the metadata.jsonl of an imagefolder."""
    return write_rows


def write_rows(root: Path, rows: list) -> None:
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
