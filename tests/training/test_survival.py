"""Runs that are killed, terminated or out of disk: nothing is lost, nothing differs."""

import errno
import json
import multiprocessing
import os
import random
import re
import signal
import time

import pytest

from moa_jax.errors import InputError
from moa_jax.training.disk import writing
from tests.training.small_run import EVERY, main

STEPS = 200
PATIENCE = 120  # seconds for what takes one or two


@pytest.fixture(scope="module")
def start():
    """Start a process that trains; what it imports is imported once, in a server that forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.small_run"])
    started = []

    def start(folder, *arguments):
        (folder / "words").unlink(missing_ok=True)  # of the process before
        arguments = (folder, *arguments)
        started.append(context.Process(target=main, args=arguments))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()


def finish(process):
    process.join(PATIENCE)
    return process.exitcode


def entries(folder):
    """Every logged number but the times; a line that is still being written is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{"step": row["step"], "loss": row["loss/total"]} for row in rows]


def last_step(folder):
    return max((entry["step"] for entry in entries(folder)), default=0)


def words(folder):
    path = folder / "words"
    return path.read_text() if path.exists() else ""


def saved_off_schedule(folder):
    """Whether there is a whole checkpoint that no interval asked for."""
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return any(int(name) % EVERY for name in names if name.isdigit())


def wait_for(condition, process):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert process.is_alive() and time.monotonic() < until
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """What a run of STEPS logs when nothing happens to it."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(start(folder, STEPS)) == 0
    return entries(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.nightly), 20])
def test_killed_at_random_moments_a_run_logs_the_same_numbers(kills, start, whole, tmp_path):
    draw = random.Random(kills)
    for _ in range(kills):
        before = last_step(tmp_path)
        process = start(tmp_path, STEPS, 0.01)
        wait_for(lambda: "the first step, compiled" in words(tmp_path), process)
        resumed = re.search(r"resuming from step (\d+)", words(tmp_path))
        # An interval, and what was done while the save was under way: at most another, because
        # the next save waits for it.
        assert before - int(resumed[1] if resumed else 0) <= 2 * EVERY
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        assert finish(process) == -signal.SIGKILL
    assert finish(start(tmp_path, STEPS)) == 0
    assert entries(tmp_path) == whole


def test_sigterm_saves_the_step_in_flight_and_asks_to_be_started_again(start, whole, tmp_path):
    process = start(tmp_path, STEPS, 0.01)
    wait_for(lambda: last_step(tmp_path) % EVERY == 2, process)
    while process.is_alive() and not saved_off_schedule(tmp_path):  # again and again
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.001)
    assert finish(process) == os.EX_TEMPFAIL
    step = last_step(tmp_path)
    assert f"SIGTERM; step {step} is saved: stopped" in words(tmp_path)
    assert not (tmp_path / "finished").exists()
    assert finish(start(tmp_path, STEPS)) == 0
    assert f"resuming from step {step} " in words(tmp_path)
    assert entries(tmp_path) == whole


@pytest.mark.slow
def test_a_disk_that_is_full_is_named_and_what_was_saved_goes_on(start, whole, tmp_path):
    assert finish(start(tmp_path, 2 * EVERY)) == 0
    # More than the process prints (XLA may have much to say), less than any one array takes.
    assert finish(start(tmp_path, STEPS, 0.0, 160_000)) == 2, words(tmp_path)
    message = words(tmp_path).splitlines()[-1]  # after what orbax tells
    assert message.startswith(f"error: '{tmp_path / 'checkpoints'}' cannot be written to: ")
    assert os.strerror(errno.EFBIG) in message
    assert finish(start(tmp_path, STEPS)) == 0
    assert f"resuming from step {2 * EVERY} " in words(tmp_path)
    assert entries(tmp_path) == whole


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_what_a_full_disk_raises_becomes_a_message(code, tmp_path):
    words = f"UNKNOWN: Error writing [OS error {code}: {os.strerror(code)}]"
    message = f"{tmp_path}.*{os.strerror(code)}.*train.output"
    with pytest.raises(InputError, match=message), writing(tmp_path):
        raise ValueError(words)
    with pytest.raises(InputError), writing(tmp_path):
        raise OSError(code, os.strerror(code))
    with pytest.raises(OSError, match="bad descriptor"), writing(tmp_path):
        raise OSError(errno.EBADF, "bad descriptor")
