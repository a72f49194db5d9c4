"""The script for a GPU, on a CPU at the smallest size."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiling import on_one_device

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
SMALL = {"SIZE": "toy", "PIXELS": "64", "BATCHES": "2", "STEPS": "2", "REPEATS": "1"}
SMALL |= {"MATRIX": "64", "TRAIN": "1", "PYTHON": sys.executable}


def measured(folder, **variables):
    environment = on_one_device() | SMALL | variables
    return subprocess.run(
        [SCRIPT, folder], env=environment, capture_output=True, text=True, timeout=900
    )


def test_the_script_passes_shellcheck():
    shellcheck = shutil.which("shellcheck") or Path(sys.executable).with_name("shellcheck")
    run = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.nightly
def test_every_part_leaves_its_rows(tmp_path):
    run = measured(tmp_path, SECONDS_IN_ALL="800")
    assert run.returncode == 0, run.stdout + run.stderr
    notes = (tmp_path / "notes.txt").read_text()
    assert "missing of what all parts need: nothing" in notes and "all is done" in notes
    for name in ("attention", "gradients", "one", "batches"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["rows"], notes
    assert "## attention" in (tmp_path / "table.md").read_text()


def test_without_time_every_part_is_left_out_in_words(tmp_path):
    run = measured(tmp_path, SECONDS_IN_ALL="0")
    assert run.returncode == 0, run.stdout + run.stderr
    notes = (tmp_path / "notes.txt").read_text()
    assert notes.count("left out: no time is left") == 5


def test_a_part_that_fails_is_named_with_its_error(tmp_path):
    """JAX ends a traceback with advice, which says nothing of the error."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\n[ "$1" = -m ] || exit 0\n'
        "echo 'jax.errors.JaxRuntimeError: no execution plan'\necho 'For simplicity, JAX'\nexit 1\n"
    )
    python.chmod(0o755)
    run = measured(tmp_path / "out", PYTHON=str(python), SECONDS_IN_ALL="60")
    assert run.returncode == 0, run.stdout + run.stderr
    notes = (tmp_path / "out/notes.txt").read_text()
    assert "gradients failed: jax.errors.JaxRuntimeError: no execution plan" in notes
    assert "For simplicity" in (tmp_path / "out/gradients.txt").read_text()
