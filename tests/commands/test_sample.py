"""sample.py as its users mistype it: one line on standard error, exit code 2, no traceback."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from moa_jax.commands import sample

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--base", "nowhere/at/all"], r"nowhere/at/all"),
        (["--moa", "nowhere"], "moa='nowhere': there is no such folder"),
        (["--prompt", "a man <|image|>"], r"no MoA weights are loaded"),
        (["--steps", "0"], r"num_inference_steps=0"),
        (["--height", "60"], r"height=60.*64"),
        (["--sampler", "dpm"], r"sampler='dpm'.*ddim"),
        (["--num-images", "0"], r"num_images=0"),
        (["--attention", "splash"], r"attention='splash' needs a TPU.*choose auto"),
        (["--variant", "fp16"], r"fp16"),
        (["--out", f"{__file__}/out"], r"--out=.*cannot be made"),
    ],
)
def test_sample_names_what_is_wrong(change, message, tiny_folder, tmp_path, capsys):
    command = ["--base", str(tiny_folder), "--prompt", "a man", "--out", str(tmp_path)]
    assert sample.main(command + change) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not list(tmp_path.glob("*.png"))


def test_the_exit_code_reaches_the_shell(tmp_path):
    """In a process of its own, and a usage error of the command line too."""
    damaged = tmp_path / "model"
    damaged.mkdir()
    for command in (["--base", str(damaged), "--prompt", "a man"], ["--prompt", "a man"]):
        arguments = [sys.executable, "sample.py", *command, "--out", str(tmp_path / "out")]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "error: " in done.stderr
