"""`make demo`: both jobs, training and sampling, from nothing to pictures in a few minutes.

On the toy world's pretrained Stable Diffusion, which comes with this package: draws with the prior,
trains MoA for a few steps on a small data set, and draws with what came of it. Prints each command
as a user would type it. From the project's root: `python -m moa_jax.toyworld.demo [FOLDER]`.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from moa_jax.toyworld.scenes import write_data, write_subject

BASE = Path("moa_jax/toyworld/weights/base")
PICTURES = 96  # in the data set
STEPS = 20
SHORT = (
    f"train.steps={STEPS} train.batch_size=8 train.log_every=5 train.sample_every=10 "
    "train.checkpoint_every=10 optimizer.warmup_steps=5"
).split()
CAPTION = "a man and a woman waving with a balloon on the beach at sunset"
PROMPT = CAPTION.replace("man ", "man <|image|> ")


def main(folder: Path) -> int:
    """Prepare, train, sample; stop at the first command that fails, with its exit code."""
    start = time.monotonic()
    data, run, out = (folder / name for name in ("data", "run", "out"))
    subjects = [folder / "subjects" / f"{name}.png" for name in ("first", "second")]
    if not data.exists():
        print(f"drawing {PICTURES} pictures to {data}/")
        write_data(data, PICTURES)
        for seed, subject in enumerate(subjects):
            write_subject(subject, seed)
    train = ["train.py", "configs/toy.py", f"data.path={data}", f"train.output={run}", *SHORT]
    shared = ["sample.py", "--model", f"{BASE}", "--steps", "20", "--num-images", "4"]
    pictures = [argument for subject in subjects for argument in ("--subject", f"{subject}")]
    commands = (
        ["-m", "moa_jax.data", "check", f"{data}", "--model", f"{BASE}"],
        [*shared, "--prompt", CAPTION, "--out", f"{out / 'prior'}"],
        train,
        [*shared, "--moa", f"{run}", "--prompt", PROMPT, *pictures, "--out", f"{out / 'moa'}"],
    )
    for command in commands:
        print(f"\n$ python {shlex.join(command)}", flush=True)
        code = subprocess.run([sys.executable, *command], check=False).returncode
        if code:
            return code
    print(f"\nin {time.monotonic() - start:.0f} s; look at")
    print(f"  {out / 'prior'}/    what the prior draws")
    print(f"  {out / 'moa'}/      the same noise with MoA, and where the personalized expert drew")
    print(f"  {run / 'samples'}/  previews of the training; its curves: tensorboard --logdir {run}")
    print(f"{STEPS} steps teach MoA little: what you see is that both jobs run")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo")))
