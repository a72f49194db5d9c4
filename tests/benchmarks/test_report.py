"""The benchmarks' clock, ratios, tables and counts, against numbers worked out by hand."""

import json
from argparse import Namespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks.report import Report, Timing, alternate, ratio, table
from benchmarks.work import Work, done, needed


class Clock:
    """Stands still but for what is called."""

    def __init__(self):
        self.now, self.ran = 0.0, []

    def __call__(self):
        return self.now

    def take(self, name, seconds):
        """Make a call that takes the next of these seconds each time."""
        left = iter(seconds)

        def call():
            self.ran.append(name)
            self.now += next(left)

        return call


def test_calls_alternate_and_each_ratio_is_of_one_round():
    clock = Clock()
    calls = {"ours": clock.take("ours", [1, 4, 1]), "theirs": clock.take("theirs", [2, 8, 4])}
    times = alternate(calls, repeats=3, clock=clock)
    assert clock.ran == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert times["ours"] == Timing((1, 4, 1)) and times["theirs"] == Timing((2, 8, 4))
    # The round in which the machine was four times slower has the same ratio as the first.
    assert ratio(times["ours"], times["theirs"]) == {"median": 0.5, "min": 0.25, "max": 0.5}


def test_no_round_begins_after_the_limit():
    clock = Clock()
    times = alternate({"ours": clock.take("ours", [3] * 9)}, repeats=9, limit=5.0, clock=clock)
    assert times["ours"].seconds == (3, 3)


def test_a_timing_says_how_far_apart_the_repeats_were():
    numbers = Timing((1.0, 2.0, 4.0)).numbers()
    assert (numbers["median"], numbers["min"], numbers["max"]) == (2.0, 1.0, 4.0)
    assert (numbers["spread"], numbers["repeats"]) == (1.5, 3)


@pytest.fixture
def report(tmp_path):
    return Report("trial", Namespace(repeats=2, seconds=None, out=tmp_path))


def test_a_row_is_written_at_once_and_a_failing_peer_is_a_note(report, tmp_path):
    calls = {"ours": lambda: None, "theirs": lambda: 1 / 0}
    row = report.measure("a job", calls, Work(2e12, 3e9), Work(4e12, 5e9, 6 * 2**20))
    written = json.loads((tmp_path / "trial.json").read_text())
    assert written["rows"] == [row] and list(row["times"]) == ["ours"] and row["ratios"] == {}
    assert written["notes"] == ["a job, theirs failed: ZeroDivisionError: division by zero"]
    assert "| a job | 2 | 3 | 4 | 5 | 6 | ours |" in (tmp_path / "trial.md").read_text()
    assert written["machine"]["platform"] == jax.default_backend()


def test_a_job_that_fails_on_our_side_has_no_row(report):
    assert report.measure("a job", {"ours": lambda: 1 / 0, "theirs": lambda: None}) is None
    assert report.content["rows"] == []


def test_the_table_compares_with_the_first_call(report):
    row = report.add("a job", {"ours": Timing((1.0, 1.0)), "theirs": Timing((2.0, 4.0))})
    ours, theirs = table([row]).splitlines()
    assert ours.endswith("| ours | 1 | 1 | 0% | 2 |  |")
    assert theirs.endswith("| theirs | 3 | 2 | 67% | 2 | 0.38 (0.25–0.50) |")


def test_the_least_is_products_without_padding_and_what_is_used():
    def function(image, kernel, weight, unused):
        window = (1, 1), "SAME"
        numbers = ("NHWC", "HWIO", "NHWC")
        maps = jax.lax.conv_general_dilated(image, kernel, *window, dimension_numbers=numbers)
        turns = jax.lax.scan(lambda x, _: (x @ weight, None), maps.reshape(16, 5), length=3)
        return turns[0].astype(jnp.bfloat16)

    shapes = (1, 4, 4, 2), (3, 3, 2, 5), (5, 5), (1000,)
    work = needed(function, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    # Along each axis of 4 pixels, a window of 3 meets 3 + 3 + 2 + 2 = 10 of them.
    assert work.flops == 2 * 10 * 10 * 2 * 5 + 3 * 2 * 16 * 5 * 5
    assert work.bytes == 4 * (32 + 90 + 25) + 2 * 80


def test_what_a_program_does_is_the_compilers():
    square = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    work = done(jax.jit(lambda x, y: jnp.tanh(x @ y) @ y).lower(square, square).compile())
    assert work.flops == 2 * 2 * 64**3
    assert work.bytes >= 3 * 4 * 64**2 and work.temporaries >= 0


def test_runs_add_up_but_for_what_they_hold():
    total = Work(1.0, 10.0, 5.0) * 3 + Work(2.0, 20.0, 7.0)
    assert total == Work(5.0, 50.0, 7.0)
    assert (Work(None, 1.0) + Work(1.0, 1.0)).flops is None
