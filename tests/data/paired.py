"""A data set of noise with references whose colours tell which picture was shown.

Every resize in it keeps the size, so that examples are the same on any machine and by any Pillow.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from moa_jax.config import DataConfig

COUNT, SIDE, SMALL = 5, 24, 8  # pictures, and the sides of pictures and of subjects in pixels
CAPTION = "a man and a kid"
RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)
STILL = DataConfig(resolution=SIDE, augment=False, workers=0)
SIZES = {"max_subjects": 2, "subject_resolution": SMALL}


def write_pictures(root: Path, references: bool = True) -> Path:
    """Write the folder.

    Every picture shows a man, and every other one a kid too. The man's references are a red picture
    of him alone, and one where he is the green part of a blue one. The kid's is green. The third
    picture has none.
    """
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = []
    for number in range(COUNT):
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(
            root / f"{number}.png"
        )
        subjects = []
        for place, word in enumerate(("man", "kid")[: 1 + number % 2]):
            left = 2 + 10 * place
            mask = np.zeros((SIDE, SIDE), bool)
            mask[4:12, left : left + 8] = random.random((8, 8)) < 0.7
            mask[[4, 11], [left, left + 7]] = True
            Image.fromarray(mask).save(root / f"{number}_{place}.png")
            subjects.append({"mask": f"{number}_{place}.png", "word": word})
        if references and number != 2:
            both = {"image": "both.png", "mask": "both_mask.png"}
            for subject, other in zip(subjects, (["red.png", both], "green.png"), strict=False):
                subject["reference"] = other
        rows.append({"file_name": f"{number}.png", "text": CAPTION, "subjects": subjects})
    if references:
        for name, color in (("red", RED), ("green", GREEN), ("both", BLUE)):
            Image.new("RGB", (SMALL, SMALL), color).save(root / f"{name}.png")
        both, mask = Image.open(root / "both.png"), Image.new("1", (SMALL, SMALL))
        both.paste(GREEN, (0, 0, SMALL, 4))
        mask.paste(1, (0, 0, SMALL, 4))
        both.save(root / "both.png")
        mask.save(root / "both_mask.png")
    write_rows(root, rows)
    return root


def read_rows(root: Path) -> list:
    """Read the rows of the folder's metadata.jsonl."""
    return [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]


def write_rows(root: Path, rows: list) -> None:
    """Write them."""
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
