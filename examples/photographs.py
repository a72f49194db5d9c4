"""From a folder of 31 pictures to weights and numbers, by the commands that a user would type.

The folder has photographs of scikit-image's and pictures of the toy world's people. It is built
into a data set, checked, packed and trained on for a short time; then a person is drawn, and the
faces of the drawn pictures are compared with theirs. Florence-2 and SAM 2, which the builder would
load, are gigabytes. In their place stands `Recorded`, which gives answers written down beforehand:
those about the photographs by hand, the others by the renderer. From the project's root:
`python examples/photographs.py [FOLDER]`.
"""

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

from moa_jax.data.images import load_image, load_mask
from moa_jax.dataset import Phrase
from moa_jax.toyworld.world.scenes import write_data

WEIGHTS = Path("moa_jax/toyworld/weights")
BASE, MOA = WEIGHTS / "base", WEIGHTS / "moa"
DRAWN, SIDE = 25, 256  # pictures of the toy world, and their side in pixels
# Of each photograph its caption, and of each phrase that was found the box and the ellipse of its
# mask: left, top, right, bottom in pixels.
PHOTOGRAPHS: dict[str, tuple[str, dict[str, tuple[int, int, int, int]]]] = {
    "astronaut": (
        "A woman in an orange suit smiles in front of a flag.",
        {"A woman": (50, 10, 370, 512)},
    ),
    "camera": ("A man looks through a camera on a tripod.", {"A man": (0, 60, 330, 512)}),
    "chelsea": ("A cat looks at the camera.", {"A cat": (10, 10, 350, 290)}),
    "coffee": ("A cup of coffee on a wooden table.", {"A cup": (150, 60, 440, 340)}),
    "rocket": ("A rocket stands on its pad at night.", {"A rocket": (300, 80, 340, 330)}),
}
SHORT = (
    "train.steps=20 train.batch_size=8 train.log_every=5 train.sample_every=20 "
    "train.checkpoint_every=10 optimizer.warmup_steps=5 optimizer.router_start=0"
).split()
PROMPTS = {
    "people": {"context": ["a {person} on the beach by day", "a {person} in the city at night"]}
}


class Recorded:
    """Captions, phrases, boxes and masks that were written down: each of the builder's networks.

    Attributes:
        about: for the data set's card.
        attempts: one caption of each picture is known.
    """

    about = "answers written down beforehand; no network"
    attempts = 1

    def __init__(self, file: str, device: str = "cpu") -> None:
        """Read the answers of `write_photographs`; they need no device."""
        self._answers = json.loads(Path(file).read_text(encoding="utf-8"))

    def caption(self, image: Image.Image, attempt: int) -> str:
        """Give the picture's caption."""
        return self._answers[_digest(image)]["caption"]

    def ground(self, image: Image.Image, caption: str) -> list[Phrase]:
        """Give the phrases of the caption, and where their things are."""
        found = []
        for text, _, box in self._answers[_digest(image)]["phrases"]:
            start = caption.index(text)
            found.append(Phrase(start, start + len(text), (tuple(box),)))
        return found

    def segment(
        self, image: Image.Image, texts: Sequence[str], boxes: Sequence[Any]
    ) -> list[np.ndarray]:
        """Give the masks of these phrases."""
        masks = {text: mask for text, mask, _ in self._answers[_digest(image)]["phrases"]}
        return [load_mask(masks[text]) for text in texts]


def main(folder: Path) -> int:
    """Write the pictures, then run the commands; if one fails, stop and return its exit code."""
    pictures, answers = folder / "photographs", folder / "answers.json"
    if not answers.exists():
        print(f"writing pictures to {pictures}/")
        write_photographs(pictures, folder / "recorded", answers)
    people = folder / "people" / "astronaut"
    people.mkdir(parents=True, exist_ok=True)
    Image.fromarray(skimage.data.astronaut()).save(people / "1.png")
    prompts = folder / "prompts.json"
    prompts.write_text(json.dumps(PROMPTS), encoding="utf-8")
    for command in commands(folder):
        print(f"\n$ python {shlex.join(command)}", flush=True)
        code = subprocess.run([sys.executable, *command], check=False).returncode
        if code:
            return code
    print(f"\nlook at {folder / 'data' / 'sheet.png'} and {folder / 'faces'}/")
    return 0


def commands(folder: Path) -> list[list[str]]:
    """List the commands, in the order in which a user types them."""
    data, packed, run = (f"{folder / name}" for name in ("data", "packed", "run"))
    recorded = f'examples.photographs:Recorded(file="{folder / "answers.json"}")'
    models = ["--captioner", recorded, "--grounder", recorded, "--segmenter", recorded]
    person = f"{folder / 'people' / 'astronaut' / '1.png'}"
    drawing = ["--base", f"{BASE}", "--moa", run, "--steps", "10"]
    return [
        ["-m", "moa_jax.data", "build", f"{folder / 'photographs'}", data, *models],
        ["-m", "moa_jax.data", "check", data, "--base", f"{BASE}"],
        ["-m", "moa_jax.data", "pack", data, packed],
        ["train.py", "configs/toy.py", f"model.moa={MOA}", *SHORT, f"data.path={packed}"]
        + [f"data.encoded={folder / 'encoded'}", f"train.output={run}"],
        ["sample.py", *drawing, "--prompt", "a woman <|image|> on the beach by day"]
        + ["--subject", person, "--out", f"{folder / 'drawn'}"],
        ["-m", "moa_jax.evaluation", "faces", "--people", f"{folder / 'people'}", *drawing]
        + ["--word", "woman", "--prompts", f"{folder / 'prompts.json'}", "--pictures", "2"]
        + ["--out", f"{folder / 'faces'}"],
    ]


def write_photographs(folder: Path, recorded: Path, answers: Path) -> None:
    """Write the pictures, the masks, and what the networks are taken to say of each picture."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {}
    for name, (caption, things) in PHOTOGRAPHS.items():
        image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        image.save(folder / f"{name}.png")
        known[_digest(image)] = _answer(image, caption, things, recorded / name)
    woman = Image.fromarray(skimage.data.astronaut())
    darker = woman.point([value // 2 for value in range(256)] * 3)
    darker.save(folder / "darker.png")  # the builder finds that it is a copy
    write_data(recorded / "drawn", DRAWN, size=SIDE)
    for line in (recorded / "drawn" / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        image = load_image(f"{recorded / 'drawn' / row['file_name']}")
        image.save(folder / row["file_name"])
        phrases = []
        for subject in row["subjects"]:
            mask = f"{recorded / 'drawn' / subject['mask']}"
            phrases.append([f"a {subject['word']}", mask, Image.open(mask).getbbox()])
        known[_digest(image)] = {"caption": row["text"], "phrases": phrases}
    answers.write_text(json.dumps(known), encoding="utf-8")


def _answer(image: Image.Image, caption: str, things: dict, masks: Path) -> dict[str, Any]:
    """Write the mask of each thing as an ellipse; give the caption and the phrases."""
    masks.parent.mkdir(parents=True, exist_ok=True)
    phrases = []
    for number, (text, box) in enumerate(things.items()):
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        mask.save(f"{masks}_{number}.png")
        phrases.append([text, f"{masks}_{number}.png", box])
    return {"caption": caption, "phrases": phrases}


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".photographs")))
