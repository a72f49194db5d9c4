"""What a program takes of a device, and how its compiler's process ends."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moa_jax.errors import InputError
from moa_jax.planning import compiler
from moa_jax.planning.collectives import Collective
from moa_jax.planning.compiler import compile_aside
from moa_jax.planning.hlo import HloArray
from moa_jax.planning.usage import Usage, in_turn
from moa_jax.training.chips import CHIPS
from tests.planning import makers
from tests.planning.conftest import libtpu


def test_a_program_is_measured_as_one_device_sees_it(measured):
    usage = measured(makers.product)
    assert usage.fits
    assert dict(usage.parts) == {"weight": 64 * 16 * 4 // 8, "rows": 32 * 64 * 4 // 8}
    assert usage.memory == sum(usage.parts.values()) + usage.temporaries
    assert usage.temporaries >= 64 * 16 * 4  # the gathered matrix
    assert usage.flops == 2 * 4 * 64 * 16
    sent = {(one.kind, one.bytes) for one in usage.collectives}
    assert sent == {("all-gather", 64 * 16 * 4), ("all-reduce", 4)}
    assert (usage.kernel_flops, usage.unknown_kernels, usage.endless) == (0, 0, 0)


@libtpu
def test_the_memory_of_a_tpu_is_that_of_arguments_and_results(measured):
    usage = measured(makers.doubled)
    assert usage.parts["arrays"] == usage.temporaries == 4096 * 8192 * 4


@libtpu
def test_a_program_that_is_too_large_says_how_large(measured):
    usage = measured(makers.too_large)
    assert usage.memory == pytest.approx(2 * 2**34, rel=0.01)


def test_programs_in_turn_add_up_their_work_and_hold_the_most_of_them():
    sent = Collective("all-gather", (HloArray("bf16", (1000,), (1024,), 0),), "")
    small = Usage(
        {"weights": 100, "request": 1}, 5, True, flops=10.0, traffic={"VAE": {"norms": 7}}
    )
    large = Usage(
        {"weights": 100, "request": 20}, 50, True, 3.0, 2.0, {"UNet": {"rest": 1}}, (sent,), 1, 1
    )
    both = in_turn([(small, 1), (large, 4)])
    assert dict(both.parts) == {"weights": 100, "request": 20}
    assert (both.memory, both.fits) == (170, True)
    assert (both.flops, both.kernel_flops, both.bytes) == (22.0, 8.0, 11)
    assert both.traffic == {"VAE": {"norms": 7}, "UNet": {"rest": 4}}
    assert len(both.collectives) == 4
    assert not in_turn([(small, 1), (dataclasses.replace(large, fits=False), 1)]).fits


def test_errors_come_back_from_the_compilers_process():
    with pytest.raises(InputError, match=r"^train.batch_size=7: no$"):
        compile_aside(makers.refused)
    with pytest.raises(RuntimeError, match="INTERNAL"):
        compile_aside(makers.broken)
    with pytest.raises(RuntimeError, match=r"ended with code 11 .*\nso long"):
        compile_aside(makers.dies)


WAITS = """\
from moa_jax.planning.compiler import compile_aside
from tests.planning.makers import waits
compile_aside(waits)
"""


def test_the_compiler_ends_with_whom_it_works_for(tmp_path):
    pid = tmp_path / "pid"
    environment = {**os.environ, "COMPILER_PID": str(pid), "TMPDIR": str(tmp_path)}
    waiting = subprocess.Popen([sys.executable, "-c", WAITS], env=environment)
    eventually(lambda: pid.is_file() and pid.read_text())
    waiting.kill()
    waiting.wait()
    eventually(lambda: not list(tmp_path.glob("moa_jax_plan_*")))
    eventually(lambda: not is_running(int(pid.read_text())))


def eventually(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(pid):
    """Whether there is such a process, and it is no zombie that nobody has collected."""
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def test_memory_that_the_compiler_asks_for_in_vain_is_read_from_its_error():
    needed = compiler._needed
    vain = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (56.00G) exceeds available HBM (15.75G). HLO module: jit_f."
    )
    assert needed(vain, 2**30) == 57 * 2**30
    used = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm."
    assert needed(used, 2**30) == 17.5 * 2**30
    with pytest.raises(RuntimeError, match="INTERNAL"):
        needed("INTERNAL: Used 1.00G of 2.00G", 0)


def test_the_slowest_resource_bounds_the_time():
    chip = CHIPS["TPU v5 lite"]
    array = HloArray("u8", (int(chip.link_bandwidth / 4),), (), 0)
    gathered = Collective("all-gather", (array,), "", turns=4)
    traffic = {"UNet": {"rest": int(chip.memory_bandwidth * 3)}}
    usage = Usage({}, 0, True, chip.flops, chip.flops, traffic, [gathered])
    assert usage.times(chip) == {"arithmetic": 2.0, "memory": 3.0, "links": 1.0}
