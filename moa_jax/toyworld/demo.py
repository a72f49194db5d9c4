"""`make demo`: both jobs, training and sampling, from nothing to pictures in a few minutes.

Writes a small checkpoint, a small data set and portraits, then runs the commands a user would type,
and prints each of them. The networks are random, so the pictures prove that everything runs, and
nothing about how MoA draws. From the project's root: `python -m moa_jax.toyworld.demo [FOLDER]`.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from moa_jax.toyworld.architecture import write_checkpoint
from moa_jax.toyworld.scenes import write_data, write_subject

PICTURES = 48  # in the data set
PROMPT = "a man <|image|> and a woman <|image|> on the beach"


def main(folder: Path) -> int:
    """Prepare, train, sample; stop at the first command that fails, with its exit code."""
    start = time.monotonic()
    model, data, run, out = (folder / name for name in ("model", "data", "run", "out"))
    subjects = [folder / "subjects" / f"{name}.png" for name in ("first", "second")]
    if not model.exists():
        print(f"writing a small random checkpoint to {model}/ and {PICTURES} pictures to {data}/")
        write_data(data, PICTURES)
        for seed, subject in enumerate(subjects):
            write_subject(subject, seed)
        write_checkpoint(model)
    train = ["train.py", "configs/toy.py", f"model.base={model}", f"data.path={data}"]
    shared = ["sample.py", "--model", f"{model}", "--steps", "20", "--num-images", "2"]
    pictures = [argument for subject in subjects for argument in ("--subject", f"{subject}")]
    commands = (
        ["-m", "moa_jax.data", "check", f"{data}", "--model", f"{model}"],
        [*train, f"train.output={run}"],
        [*shared, "--prompt", "a man and a woman on the beach", "--out", f"{out / 'prior'}"],
        [*shared, "--moa", f"{run}", "--prompt", PROMPT, *pictures, "--out", f"{out / 'moa'}"],
    )
    for command in commands:
        print(f"\n$ python {shlex.join(command)}", flush=True)
        code = subprocess.run([sys.executable, *command], check=False).returncode
        if code:
            return code
    print(f"\nin {time.monotonic() - start:.0f} s; look at")
    print(f"  {out / 'moa'}/      two subjects, and where the personalized expert drew them")
    print(f"  {out / 'prior'}/    the same noise without them")
    print(f"  {run / 'samples'}/  previews of the training; its curves: tensorboard --logdir {run}")
    print("the checkpoint's weights are random: what you see is that it runs, not what MoA draws")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo")))
