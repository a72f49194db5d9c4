"""Requests to stop: what the loop does with them, and whose signals they are."""

import os
import signal
import threading

import pytest

from moa_jax.cli import run
from moa_jax.errors import Preempted
from moa_jax.training.preemption import StopRequests
from tests.training.small_run import Numbers, open_checkpoints, small_config, small_fit


class Signalled(Numbers):
    """Batches at one of which a signal comes: step n reads n + 2."""

    def __init__(self, number, at):
        super().__init__()
        self.number, self.at = number, at

    def __next__(self):
        if self.place == self.at:
            signal.raise_signal(self.number)
        return super().__next__()


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGTERM, os.EX_TEMPFAIL, "SIGTERM; step 4 is saved: stopped"),
        (signal.SIGINT, 130, "Ctrl-C again stops at once"),
    ],
)
def test_a_signal_saves_the_step_in_flight(number, code, message, tmp_path, capfd):
    found = {other: signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGINT)}
    config = small_config(tmp_path, 20)
    assert run(lambda: small_fit(config, Signalled(number, at=5)), stopped="stopped") == code
    assert message in capfd.readouterr().err
    assert found == {other: signal.getsignal(other) for other in found}
    with open_checkpoints(config) as checkpoints:
        assert checkpoints.newest == 4
    assert int(small_fit(config).step) == 20
    assert "resuming from step 4 " in capfd.readouterr().out


def test_a_signal_at_the_last_step_finds_a_run_that_is_done(tmp_path):
    assert int(small_fit(small_config(tmp_path, 4), Signalled(signal.SIGTERM, at=5)).step) == 4


def test_the_second_ctrl_c_stops_at_once(tmp_path):
    class Impatient(Signalled):
        def __next__(self):
            if self.place == self.at:
                signal.raise_signal(self.number)
                signal.raise_signal(self.number)
                pytest.fail("went on")
            return super().__next__()

    config, found = small_config(tmp_path, 20), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        small_fit(config, Impatient(signal.SIGINT, at=9))
    assert signal.getsignal(signal.SIGINT) is found
    with open_checkpoints(config) as checkpoints:
        assert checkpoints.newest == 5  # the steps after it were not saved


def test_the_hosts_are_asked_once_a_step_and_stop_where_they_agree(tmp_path, monkeypatch):
    asked = []

    def reached(_, step):
        asked.append(step)
        return step == 3

    monkeypatch.setattr("moa_jax.training.checkpoint.Checkpoints.reached_preemption", reached)
    config = small_config(tmp_path, 20)
    with pytest.raises(Preempted, match="preempted; step 3 is saved"):
        small_fit(config)
    assert asked == [1, 2, 3]
    with open_checkpoints(config) as checkpoints:
        assert checkpoints.newest == 3


def test_a_thread_of_another_program_leaves_its_signals_alone():
    found = signal.getsignal(signal.SIGTERM)
    seen = []

    def listen():
        with StopRequests(lambda step: False) as requests:
            requests.listen()
            seen.extend([signal.getsignal(signal.SIGTERM), requests.asked(1)])

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [found, None]


def test_on_many_hosts_the_signals_are_left_to_jax(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    found = signal.getsignal(signal.SIGTERM)
    with StopRequests(lambda step: step == 2) as requests:
        requests.listen()
        assert requests.asked(1) is None and signal.getsignal(signal.SIGTERM) is found
        assert isinstance(requests.asked(2), Preempted)
        signal.raise_signal(signal.SIGTERM)  # another one does not end the save
    assert signal.getsignal(signal.SIGTERM) is found
