"""The real command, killed and terminated: started again, it leaves what an unharmed run leaves."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from moa_jax.toyworld.world.scenes import write_data
from moa_jax.training.throughput import MEASURED
from tests.compiling import on_one_device

ROOT = Path(__file__).parents[2]
PATIENCE = 600  # seconds for a start on a machine that has much else to do
WEIGHTS = "moa.safetensors"


@pytest.fixture(scope="module")
def start(tiny_folder, tmp_path_factory):
    """Start train.py on one device; compiled programs are kept from one start to the next."""
    data = tmp_path_factory.mktemp("data")
    write_data(data, count=10, size=64)
    started = []

    def start(output, steps):
        values = {
            "model.base": tiny_folder,
            "data.path": data,
            "data.resolution": 64,
            "data.workers": 0,
            "data.encoded": "none",
            "method.image_encoder_layers": 1,
            "optimizer.warmup_steps": 0,
            "optimizer.schedule": "constant",
            "train.output": output,
            "train.steps": steps,
            "train.batch_size": 2,
            "train.log_every": 1,
            "train.checkpoint_every": 2,
            "train.sample_every": "none",
        }
        overrides = [f"{key}={value}" for key, value in values.items()]
        output.mkdir(exist_ok=True)
        with (output / "words").open("w") as words:
            command = [sys.executable, "train.py", "configs/toy.py", *overrides]
            process = subprocess.Popen(
                command, cwd=ROOT, env=on_one_device(), stdout=words, stderr=words
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def entries(output):
    """What was logged but the times; a line that is still being written is left out."""
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: row[key] for key in row if key not in MEASURED} for row in rows]


def wait_for_a_step(output, process):
    """Wait until this process has done its first step."""
    until = time.monotonic() + PATIENCE
    while "the first step, compiled" not in (output / "words").read_text():
        assert process.poll() is None and time.monotonic() < until, (output / "words").read_text()
        time.sleep(0.01)


@pytest.mark.slow  # tests/training/test_survival.py kills a small run often
@pytest.mark.nightly  # minutes, as each start compiles
def test_killed_and_terminated_it_leaves_what_an_unharmed_run_leaves(start, tmp_path):
    whole, harmed = tmp_path / "whole", tmp_path / "harmed"
    kills, draw = 2, random.Random(0)
    steps = 8 * kills + 4
    assert start(whole, steps).wait(PATIENCE) == 0
    for _ in range(kills):
        process = start(harmed, steps)
        wait_for_a_step(harmed, process)
        time.sleep(draw.uniform(0, 0.5))
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
    process = start(harmed, steps)
    wait_for_a_step(harmed, process)
    process.terminate()
    assert process.wait(PATIENCE) == os.EX_TEMPFAIL
    assert "is saved: stopped: the same command resumes" in (harmed / "words").read_text()
    assert not (harmed / WEIGHTS).exists()
    assert start(harmed, steps).wait(PATIENCE) == 0
    assert entries(harmed) == entries(whole)
    expected, found = (load_file(output / WEIGHTS) for output in (whole, harmed))
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
