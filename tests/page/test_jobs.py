"""The line: one at a time, in order, with places that are told, and ways out of it."""

import threading

import pytest

from moa_jax.errors import InputError
from moa_jax.page.jobs import Desk, Stopped


class Gate:
    """Work that reports a step each time it is let on."""

    def __init__(self, steps=2):
        self.steps, self.on, self.begun = steps, threading.Semaphore(0), threading.Event()

    def __call__(self, job):
        self.begun.set()
        for step in range(self.steps):
            assert self.on.acquire(timeout=10)
            job.report(step + 1, self.steps, f"preview {step}" if step == 0 else None)
        return "drawn"

    def open(self):
        self.on.release(100)


def test_jobs_run_one_after_the_other_and_say_how_far_they_are():
    desk, first, second = Desk(), Gate(), Gate()
    one, two = desk.add(first), desk.add(second)
    waiting = two.updates()
    assert next(waiting).place == 1
    assert first.begun.wait(10)
    assert not second.begun.is_set()
    first.open()
    seen = list(one.updates())
    assert one.result() == "drawn"
    assert seen[-1].total in (0, 2)
    assert second.begun.wait(10)
    assert next(waiting).place == 0
    second.on.release()
    update = next(waiting)
    assert (update.done, update.total, update.preview) == (1, 2, "preview 0")
    second.on.release()
    assert [each.preview for each in waiting][-1:] in ([], ["preview 0"])  # the last one stays
    assert two.result() == "drawn"


def test_whoever_waits_can_leave_and_the_others_move_up():
    desk, gate = Desk(), Gate()
    _, left, last = desk.add(gate), desk.add(Gate(0)), desk.add(Gate(0))
    watching = last.updates()
    assert next(watching).place == 2
    left.stop()
    assert next(watching).place == 1
    assert list(left.updates()) == []
    with pytest.raises(Stopped):
        left.result()
    gate.open()
    list(watching)
    assert last.result() == "drawn"


def test_a_job_under_way_stops_at_its_next_report():
    desk, gate, after = Desk(), Gate(100), Gate(0)
    job, next_one = desk.add(gate), desk.add(after)
    assert gate.begun.wait(10)
    job.stop()
    gate.on.release()
    list(job.updates())
    with pytest.raises(Stopped):
        job.result()
    list(next_one.updates())
    assert next_one.result() == "drawn"


def test_whoever_stops_watching_stops_the_job():
    desk, gate = Desk(), Gate(100)
    job = desk.add(gate)
    watching = job.updates()
    next(watching)
    watching.close()
    gate.on.release()
    list(job.updates())
    with pytest.raises(Stopped):
        job.result()


def test_faults_are_told_in_words_and_the_line_goes_on(caplog):
    def wrong(job):
        raise InputError("steps=0: must be 1 or more")

    def broken(job):
        raise ZeroDivisionError

    desk = Desk()
    jobs = [desk.add(wrong), desk.add(broken), desk.add(Gate(0))]
    for job in jobs:
        list(job.updates())
    with pytest.raises(InputError, match="steps=0"):
        jobs[0].result()
    with pytest.raises(InputError, match=r"this failed \(ZeroDivisionError\)"):
        jobs[1].result()
    assert "Traceback" in caplog.text
    assert jobs[2].result() == "drawn"


def test_a_long_line_sends_people_away():
    desk, gate = Desk(most=2), Gate()
    desk.add(gate)
    desk.add(Gate(0))
    with pytest.raises(InputError, match="2 drawings wait already"):
        desk.add(Gate(0))
    gate.open()
