"""Six photographs, and what the networks say of them: answers written by hand in Florence-2's way.

None of them was given by the released weights. A mask is the ellipse that fills its box.
"""

import time
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from moa_jax.dataset.models import Models, Phrase

WOMAN, MAN = (24.0, 20.0, 390.0, 511.0), (5.0, 60.0, 335.0, 511.0)
RIGHT_MAN = (517.0, 60.0, 847.0, 511.0)
CAT = (60.0, 20.0, 330.0, 299.0)
ASTRONAUT = "A woman in an orange suit smiling in front of a flag."

# By the size of the picture: its captions in the order of the attempts, and by caption the phrases
# that were found, each with its boxes.
ANSWERS = {
    (512, 512): (
        [ASTRONAUT],
        {
            ASTRONAUT: [
                ("A woman in an orange suit", [WOMAN]),
                ("an orange suit", [(90.0, 200.0, 390.0, 511.0)]),
                ("a flag", [(0.0, 0.0, 200.0, 400.0)]),
            ]
        },
    ),
    (510, 512): (  # the first caption has two men for one camera man; the second is clear
        ["Two men with a camera on a field.", "A man with a camera on a field."],
        {
            "Two men with a camera on a field.": [("Two men", [MAN, (0.0, 0.0, 90.0, 90.0)])],
            "A man with a camera on a field.": [
                ("A man", [MAN]),
                ("a camera", [(230.0, 90.0, 330.0, 240.0)]),
            ],
        },
    ),
    (1024, 512): (
        ["A woman and a man are side by side. The woman wears an orange suit."],
        {
            "A woman and a man are side by side. The woman wears an orange suit.": [
                ("A woman", [WOMAN]),
                ("a man", [RIGHT_MAN]),
                ("The woman", [(25.0, 21.0, 390.0, 510.0)]),
            ]
        },
    ),
    (451, 300): (
        ["A close-up of a cat."],
        {"A close-up of a cat.": [("A close-up", [CAT]), ("a cat", [CAT])]},
    ),
    (600, 400): (
        ["A cup of coffee on a wooden table."],
        {
            "A cup of coffee on a wooden table.": [
                ("A cup of coffee", [(150.0, 60.0, 460.0, 360.0)]),
                ("a wooden table", [(0.0, 0.0, 599.0, 399.0)]),
            ]
        },
    ),
    (640, 427): (  # every caption is ambiguous
        ["A man beside a rocket.", "People beside a rocket.", "A man and a woman by a rocket."],
        {
            "A man beside a rocket.": [
                ("A man", [(10.0, 10.0, 90.0, 200.0), (300.0, 10.0, 390.0, 200.0)])
            ],
            "People beside a rocket.": [("People", [(10.0, 10.0, 390.0, 200.0)])],
            "A man and a woman by a rocket.": [("A man and a woman", [(10.0, 10.0, 390.0, 200.0)])],
        },
    ),
}


class Recorded:
    """Answers as it is written above; serves as all three networks, and counts the captions."""

    attempts = 3
    about = "answers written by hand (no licence)"

    def __init__(self, device: str = "cpu", delay: float = 0.0):
        self.device, self.delay, self.asked = device, delay, 0

    def caption(self, image, attempt):
        time.sleep(self.delay)
        self.asked += 1
        captions = ANSWERS[image.size][0]
        return captions[min(attempt, len(captions) - 1)]

    def ground(self, image, caption):
        phrases, after = [], 0
        for text, boxes in ANSWERS[image.size][1].get(caption, []):
            start = caption.find(text, after)
            start = caption.index(text) if start < 0 else start
            after = start + 1
            phrases.append(Phrase(start, start + len(text), tuple(boxes)))
        return phrases

    def segment(self, image, texts, boxes):
        y, x = np.mgrid[: image.height, : image.width]
        masks = []
        for left, top, right, bottom in boxes:
            across = (x - (left + right) / 2) / ((right - left) / 2)
            down = (y - (top + bottom) / 2) / ((bottom - top) / 2)
            masks.append(across**2 + down**2 < 1)
        return masks


def recorded() -> Models:
    network = Recorded()
    return Models(network, network, network)


def write_photographs(folder: Path) -> None:
    """Write the six pictures, each of the size that the answers know it by."""
    folder.mkdir(parents=True, exist_ok=True)
    astronaut = Image.fromarray(skimage.data.astronaut())
    camera = Image.fromarray(skimage.data.camera()).convert("RGB")
    both = Image.new("RGB", (1024, 512))
    both.paste(astronaut)
    both.paste(camera, (512, 0))
    astronaut.save(folder / "astronaut.jpg", quality=95)
    camera.crop((0, 0, 510, 512)).save(folder / "camera.png")
    both.save(folder / "both.webp", quality=90)
    for name in ("chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.jpg", quality=95)
