"""What a run tells about its speed: rates, the compiler's count, waiting, memory, traces."""

import contextlib
import json
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from moa_jax.errors import InputError
from moa_jax.training.log import Display
from moa_jax.training.profiling import profiled, steps_to_profile
from moa_jax.training.throughput import (
    MEASURED,
    Throughput,
    memory_peak,
    speeds,
)
from tests.training.small_run import small_config, small_fit

SIZE = 64  # of square matrices, whose product takes 2 SIZE^3 operations


def counted(function, micro_batches=1):
    """Operations of a jitted function of a square matrix, as `Throughput` counts them."""
    speed = Throughput(0, 1, micro_batches)
    speed.count(jax.jit(function), jnp.ones((SIZE, SIZE)))
    numbers = speed.read(1)
    return numbers["tflops_per_chip"] * 1e12 * numbers["step_seconds"]


def test_rates_are_per_step_and_per_chip():
    chips = [SimpleNamespace(device_kind="TPU v5 lite")] * 4
    assert speeds(2.0, 64, 197e12, chips) == {
        "step_seconds": 2.0,
        "images_per_second": 32.0,
        "images_per_second_per_chip": 8.0,
        "tflops_per_chip": 98.5,
        "mfu": 0.5,
    }
    assert "tflops_per_chip" not in speeds(2.0, 64, None, chips)


def test_the_compiler_counts_the_work_of_a_step():
    assert counted(lambda x: x @ x) == pytest.approx(2 * SIZE**3, rel=0.02)


def test_on_gpus_the_work_is_counted_before_libraries_take_it_over(monkeypatch):
    """The compiled program of a GPU calls cuBLAS and cuDNN, whose work XLA does not count."""

    def never(*_):
        raise AssertionError("the compiled program was asked")

    product = jax.jit(lambda matrix: matrix @ matrix)
    lowered = product.lower(jnp.ones((SIZE, SIZE)))
    compiled = SimpleNamespace(cost_analysis=never)
    step = SimpleNamespace(compile=lambda: compiled, cost_analysis=lowered.cost_analysis)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    speed = Throughput(0, 1, 1)
    speed.count(SimpleNamespace(lower=lambda *_: step), ())
    numbers = speed.read(1)
    operations = numbers["tflops_per_chip"] * 1e12 * numbers["step_seconds"]
    assert operations * jax.device_count() == pytest.approx(2 * SIZE**3, rel=0.01)


def test_all_turns_of_the_loop_over_micro_batches_are_counted():
    def loop(x):
        return jax.lax.scan(lambda y, _: (jnp.sin(y @ x), None), x, length=4)[0]

    def unrolled(x):
        y = x
        for _ in range(4):
            y = jnp.sin(y @ x)
        return y

    assert counted(loop, 4) == pytest.approx(counted(unrolled), rel=0.05)


def test_waiting_for_input_is_a_share_of_the_time():
    def slow():
        while True:
            time.sleep(0.05)
            yield 1

    speed = Throughput(0, 1, 1)
    items = speed.waiting(slow())
    for _ in range(2):
        next(items)
        time.sleep(0.05)
    assert 0.25 < speed.read(2)["input_wait"] < 0.75
    time.sleep(0.01)
    assert speed.read(3)["input_wait"] == 0.0


def test_memory_is_that_of_the_fullest_device_where_devices_tell():
    stats = [{"peak_bytes_in_use": 3 * 2**30}, {"peak_bytes_in_use": 2**30}, {}, None]
    devices = [SimpleNamespace(memory_stats=lambda each=each: each) for each in stats]
    assert memory_peak(devices) == {"memory_peak_gib": 3.0}
    assert memory_peak(devices[2:]) == {}


def test_a_run_logs_its_speed_and_traces_the_steps_asked_for(tmp_path):
    small_fit(small_config(tmp_path, 6, profile_steps="3:4"))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    on_cpu = MEASURED - {"mfu", "memory_peak_gib"}
    assert not MEASURED & rows[0].keys()  # the first step compiles
    assert all(MEASURED & row.keys() == on_cpu for row in rows[1:])
    assert all(row[key] > 0 for row in rows[1:] for key in on_cpu - {"input_wait"})
    assert all(0 <= row["input_wait"] <= 1 for row in rows[1:])
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (range(1, 7), ["start", 3, 4, "stop"]),
        (range(1, 4), ["start", 3, "stop"]),
        (range(4, 7), ["start", 4, "stop"]),
        (range(5, 7), []),
    ],
)
def test_a_trace_is_closed_wherever_the_run_starts_and_ends(steps, expected, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: seen.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: seen.append("stop"))
    for step in profiled(steps, "3:4", tmp_path, contextlib.nullcontext):
        if "start" in seen and "stop" not in seen:
            seen.append(step)
    assert seen == expected


@pytest.mark.parametrize("text", ["10", "13:10", "0:3", "a:b", "1:2:3", "-1:2"])
def test_steps_to_profile_are_first_and_last(text):
    assert steps_to_profile("10:13") == range(10, 14)
    with pytest.raises(InputError, match="train.profile_steps=.*10:13"):
        steps_to_profile(text)


def test_the_display_tells_of_mfu_and_of_slow_input(capsys):
    values = {"loss/total": 0.5, "images_per_second": 8.0, "step_seconds": 1.0}
    with Display(steps=3, step=0) as display:
        display.show(1, values | {"mfu": 0.413, "input_wait": 0.25})
        display.show(2, values | {"input_wait": 0.01})
    first, second = capsys.readouterr().out.splitlines()
    assert "MFU 41.3%" in first and "waits for input 25%" in first
    assert "MFU" not in second and "waits" not in second
