"""`make demo`: what MoA does, in sampling and in training, in a few minutes.

It uses the toy world's weights, which come with this package. It draws a grid of people and places
by the Python interface. Then it draws two people together and fine-tunes for a short time, by the
commands that a user would type, and prints these. From the project's root:
`python examples/demo.py [FOLDER]`.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from moa_jax.cli import track
from moa_jax.figures import picture_table
from moa_jax.runtime import keep_programs
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld.world.people import WORDS
from moa_jax.toyworld.world.scenes import write_data, write_subject

WEIGHTS = Path("moa_jax/toyworld/weights")
BASE, MOA = WEIGHTS / "base", WEIGHTS / "moa"
PICTURES, STEPS = 96, 20  # of the fine-tuning
SHORT = (
    f"train.steps={STEPS} train.batch_size=8 train.log_every=5 train.sample_every=10 "
    "train.checkpoint_every=10 optimizer.warmup_steps=5 optimizer.router_start=0"
).split()
SAMPLER = {"sampler": "ddim", "num_inference_steps": 25, "guidance_scale": 2.5}
WORD = "woman"
PEOPLE = 4  # rows of the grid
CONTEXTS = (  # its columns
    "standing with a dog in the garden by day",
    "waving with a balloon on the beach at sunset",
    "cheering with a ball in the city at night",
    "waving with an umbrella in the forest by day in the rain",
    "standing with a ball at the castle at sunset in the fog",
)


def main(folder: Path) -> int:
    """Draw, then run the commands; if one fails, stop and return its exit code."""
    start = time.monotonic()
    keep_programs()
    names = ("data", "encoded", "run", "out", "subjects")
    data, encoded, run, out, people = (folder / name for name in names)
    if not data.exists():
        print(f"drawing {PICTURES} pictures to {data}/ and portraits to {people}/")
        write_data(data, PICTURES)
    man, *women = subjects = [people / f"{number}.png" for number in range(1 + PEOPLE)]
    for number, subject in enumerate(subjects):
        word = WORD if number else "man"
        write_subject(subject, number * len(WORDS) + WORDS.index(word))
    out.mkdir(parents=True, exist_ok=True)
    draw_grid(women).save(out / "grid.png")
    prompt = f"a man <|image|> and a {WORD} <|image|> {CONTEXTS[1]}"
    sample = ["sample.py", "--base", f"{BASE}", "--moa", f"{MOA}", "--prompt", prompt]
    sample += ["--subject", f"{man}", "--subject", f"{women[0]}"]
    sample += ["--steps", f"{SAMPLER['num_inference_steps']}"]
    sample += ["--sampler", SAMPLER["sampler"]]
    sample += ["--guidance-scale", f"{SAMPLER['guidance_scale']}", "--out", f"{out / 'two'}"]
    train = ["train.py", "configs/toy.py", f"model.moa={MOA}", *SHORT]
    train += [f"data.path={data}", f"data.encoded={encoded}", f"train.output={run}"]
    for command in (
        sample,
        ["-m", "moa_jax.data", "check", f"{data}", "--base", f"{BASE}"],
        train,
    ):
        print(f"\n$ python {shlex.join(command)}", flush=True)
        code = subprocess.run([sys.executable, *command], check=False).returncode
        if code:
            return code
    print(f"\nin {time.monotonic() - start:.0f} s; look at")
    print(f"  {out / 'grid.png'}  a row for each person, a column for each prompt and noise")
    print(f"  {out / 'two'}/      two people together, and where the personalized expert drew")
    print(f"  {run / 'samples'}/  previews of the training; its curves: tensorboard --logdir {run}")
    return 0


def draw_grid(subjects: Sequence[Path]) -> Image.Image:
    """Draw every subject in every context, below a row of the prior's; a column shares a noise."""
    prior, pipe = Pipeline.from_pretrained(BASE), Pipeline.from_pretrained(BASE, MOA)
    rows = []
    for subject in track([None, *subjects], "drawing the grid"):
        drawn = []
        for seed, context in enumerate(CONTEXTS):
            if subject is None:
                result = prior(f"a {WORD} {context}", seed=seed, **SAMPLER)
            else:
                result = pipe(f"a {WORD} <|image|> {context}", [subject], seed=seed, **SAMPLER)
            drawn += result.images
        rows.append([subject and Image.open(subject), *drawn])
    return picture_table(rows, ["the subject", *CONTEXTS])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo")))
