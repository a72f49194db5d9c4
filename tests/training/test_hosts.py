"""Several real processes over loopback: one run, one writer, and no hang when one is killed."""

import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.training import hosts
from moa_jax.training.throughput import MEASURED
from tests import launched
from tests.launched import logs, wait
from tests.training import several


def start(processes, folder, preset, steps, pause=0.0, unreadable=None):
    """Start `several` in processes; the last cannot read one checkpoint."""
    command = ("-m", "tests.training.several", folder, preset, steps, pause)
    hidden = {} if unreadable is None else {"UNREADABLE": unreadable}
    return launched.start(processes, folder, command, last=hidden)


def kill_and_resume(processes, folder):
    """(codes and logs of a run whose last process is killed, its newest checkpoint, next logs)."""
    started = start(processes, folder, "fsdp", steps=10_000, pause=0.2)
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints" / "4").exists():
        assert time.monotonic() < deadline and started[0].poll() is None, logs(folder)
        time.sleep(0.05)
    started[-1].send_signal(signal.SIGKILL)
    codes, killed = wait(started, seconds=60), logs(folder)
    step = newest(folder)
    again = start(processes, folder, "fsdp", steps=step + 3)
    assert wait(again) == [0] * processes, logs(folder)
    return codes, killed, step, logs(folder)


def newest(folder):
    return max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def curve(folder):
    """(steps, the numbers of each), times aside."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [[entry[key] for key in sorted(entry) if key not in MEASURED] for entry in entries]
    return [entry["step"] for entry in entries], np.array(numbers)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, *kill_and_resume(2, folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, two):
    """The same run in this process, without a stop and with another preset."""
    folder = tmp_path_factory.mktemp("alone")
    several.train(folder, "dp", two[3] + 3)
    return folder


@pytest.mark.slow
def test_when_one_is_killed_the_other_stops_with_a_clear_message(two):
    _, codes, killed, _, _ = two
    assert codes == [os.EX_TEMPFAIL, -signal.SIGKILL]
    assert re.search(r"error: host 0 of 2: another host is gone \(.*newest checkpoint", killed[0])


def test_started_again_they_go_on_from_the_newest_checkpoint(two):
    folder, _, _, step, again = two
    assert f"resuming from step {step} of" in again[0]
    assert curve(folder)[0] == list(range(1, step + 4))


def test_the_first_alone_speaks_and_writes(two):
    folder, _, killed, _, again = two
    for log in (killed[1], again[1]):
        assert not re.search(r"step \d|resuming", log)
    assert len(list((folder / "tensorboard").iterdir())) == 2  # one for each start


def test_two_hosts_train_as_one_does(two, alone):
    np.testing.assert_allclose(curve(two[0])[1], curve(alone)[1], rtol=1e-5)
    for preview in alone.glob("preview*.npy"):
        np.testing.assert_allclose(np.load(two[0] / preview.name), np.load(preview), rtol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_another_number_of_hosts_and_preset(two, alone, tmp_path):
    """And one that a single host of two cannot read is set aside by both."""
    end, step = two[3] + 6, newest(alone)
    for name, (saved, preset) in {"one": (two[0], "fsdp+tp"), "same": (alone, "dp")}.items():
        shutil.copytree(saved, tmp_path / name)
        several.train(tmp_path / name, preset, end)
    folder = shutil.copytree(alone, tmp_path / "two")
    assert wait(start(2, folder, "fsdp", end, unreadable=step)) == [0, 0], logs(folder)
    told = logs(folder)[0]
    assert f"{step}' is not intact (RuntimeError: it cannot be read on host 1): set aside" in told
    assert "resuming from step" in told and f"resuming from step {step} " not in told
    assert (folder / "checkpoints" / f"{step}.broken").is_dir()
    for name in ("one", "two"):
        np.testing.assert_allclose(
            curve(tmp_path / name)[1], curve(tmp_path / "same")[1], rtol=1e-5, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.nightly
def test_four_hosts(tmp_path):
    codes, _, step, _ = kill_and_resume(4, tmp_path)
    assert codes[-1] == -signal.SIGKILL
    # jax itself may end those that leave after the first, which serves them.
    assert set(codes[:-1]) <= {os.EX_TEMPFAIL, -signal.SIGABRT} and os.EX_TEMPFAIL in codes
    (tmp_path / "alone").mkdir()
    several.train(tmp_path / "alone", "fsdp", step + 3)
    np.testing.assert_allclose(curve(tmp_path)[1], curve(tmp_path / "alone")[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({hosts.COUNT: "2"}, f"{hosts.ADDRESS}, {hosts.NUMBER} is not: set it too"),
        ({hosts.ADDRESS: "a:1", hosts.COUNT: "two", hosts.NUMBER: "0"}, f"{hosts.COUNT}='two'"),
        ({hosts.ADDRESS: "a:1", hosts.COUNT: "2", hosts.NUMBER: "2"}, f"{hosts.NUMBER}=2 must be"),
    ],
)
def test_a_launch_that_is_half_described_is_refused(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=re.escape(message)):
        hosts.join(False)


def test_alone_there_is_nobody_to_join():
    assert not hosts.join(False)
    assert hosts.first() and hosts.leave(3) == 3
