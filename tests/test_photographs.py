"""From photographs to weights and numbers: `examples/photographs.py`, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from moa_jax.method.weights import WEIGHTS_NAME
from tests.compiling import on_one_device

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_folder_of_photographs_becomes_weights_and_numbers(tmp_path):
    command = [sys.executable, "examples/photographs.py", str(tmp_path)]
    environment = on_one_device() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # Of 31 pictures three have nobody in them, and one is a darker copy.
    assert "no subject: 3 pictures dropped" in done.stdout
    assert "copy: 1 pictures dropped" in done.stdout
    assert "27 records, 44 subjects: 0 faults in 0 records" in done.stdout
    lines = (tmp_path / "data" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert {"woman", "man"} <= {each["word"] for row in rows for each in row["subjects"]}
    assert (tmp_path / "run" / WEIGHTS_NAME).is_file()
    with Image.open(tmp_path / "data" / "sheet.png") as sheet:
        assert sheet.width > 1000
    # What the toy world draws has no face that dlib, trained on photographs, would find.
    (row,) = json.loads((tmp_path / "faces" / "results.json").read_text())["rows"]
    assert row["no_face"]["mean"] == 1.0
