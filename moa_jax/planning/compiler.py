"""Compile in a process of its own, which is stopped once the compiler has settled a plan's numbers.

For a full-size program the TPU compiler settles operations, memory and messages in the first
minutes. Then it spends ten times as long on machine code, which nobody runs here. It dumps into
files what it has settled.

    python -m moa_jax.planning.compiler FOLDER    (what the process runs)
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moa_jax.errors import InputError
from moa_jax.training.chips import GIB

PROGRAM, PARTS, OUTCOME, WORDS = "program.pickle", "parts.json", "outcome.json", "words.txt"
TEXT, REPORT = "*after_optimizations.txt", "*after_optimizations-memory-usage-report.txt"
SETTLED = "*after_optimizations_after_buffer_assignment.txt"  # dumped after those two
LAST_WORDS = 2000  # characters of a dead compiler's output that the error quotes

_HBM = re.compile(r"Memory Space: default \(color=0\)\nTotal bytes: (\d+)")
_USED = re.compile(r"Used ([\d.]+)G of")
_TEMPORARIES = re.compile(r"temporaries \(([\d.]+)G\)")


@dataclass(frozen=True)
class Compiled:
    """What the compiler has settled about one device's program.

    Attributes:
        parts: bytes of its arguments by what they are.
        memory: bytes of everything but the machine code. If the program does not fit, these are the
            bytes that the compiler asked for in vain.
        text: the program as XLA writes it; None means that it does not fit.
    """

    parts: Mapping[str, int]
    memory: int
    text: str | None


def compile_aside(make: Callable[[], Any]) -> Compiled:
    """Compile a program until its text and its memory are settled.

    Args:
        make: gives a `moa_jax.planning.programs.Program`. It must be picklable, because the other
            process calls it.

    Raises:
        InputError: as `make` does.
        RuntimeError: the compiler failed, or died, for another reason than the device's memory.
    """
    with tempfile.TemporaryDirectory(prefix="moa_jax_plan_") as name:
        folder = Path(name)
        (folder / PROGRAM).write_bytes(pickle.dumps(make))
        code = _run(folder)
        return _read(folder, code)


def _run(folder: Path) -> int | None:
    """Start the process, and wait until it ends or everything is settled.

    Returns:
        The process's exit code; None means that everything was settled before it ended.
    """
    # The process must find the modules that the pickled `make` names.
    paths = os.pathsep.join(path for path in (os.getcwd(), *sys.path) if path)
    command = [sys.executable, "-m", "moa_jax.planning.compiler", str(folder)]
    with (folder / WORDS).open("wb") as words:
        process = subprocess.Popen(
            command, stdout=words, stderr=words, env={**os.environ, "PYTHONPATH": paths}
        )
        try:
            while (code := process.poll()) is None and not any(folder.glob(SETTLED)):
                time.sleep(0.1)
            return code
        finally:
            process.kill()
            process.wait()


def _read(folder: Path, code: int | None) -> Compiled:
    outcome = _outcome(folder, code)
    parts = json.loads((folder / PARTS).read_text())
    if "error" in outcome:
        return Compiled(parts, _needed(outcome["error"], sum(parts.values())), None)
    text = max((file.read_text() for file in folder.glob(TEXT)), key=len)
    reports = [_HBM.search(file.read_text()) for file in folder.glob(REPORT)]
    sizes = [int(found[1]) for found in reports if found]
    return Compiled(parts, max(sizes, default=outcome.get("memory", 0)), text)


def _outcome(folder: Path, code: int | None) -> dict[str, Any]:
    """Read how the process ended; empty if everything was settled before.

    Raises:
        InputError: the program could not be made.
        RuntimeError: the process died.
    """
    if any(folder.glob(SETTLED)):
        return {}
    if not (folder / OUTCOME).is_file():
        words = (folder / WORDS).read_text(errors="replace")[-LAST_WORDS:]
        raise RuntimeError(
            f"the compiler's process ended with code {code} (-9: this machine's memory is too "
            f"small?); its last words:\n{words}"
        )
    outcome = json.loads((folder / OUTCOME).read_text())
    if "input" in outcome:
        raise InputError(outcome["input"])
    return outcome


def _needed(error: str, arguments: int) -> int:
    """Read the bytes that the compiler asked for in vain.

    Raises:
        RuntimeError: the compiler failed for another reason.
    """
    if "RESOURCE_EXHAUSTED" in error:
        if used := _USED.search(error):
            return int(float(used[1]) * GIB)
        if temporaries := _TEMPORARIES.search(error):
            return arguments + int(float(temporaries[1]) * GIB)
    raise RuntimeError(error)


def _compile(folder: Path) -> None:
    """Do the work of the process: compile, and leave in the folder what the parent reads."""
    threading.Thread(target=_leave_with, args=(os.getppid(), folder), daemon=True).start()
    import jax

    from moa_jax.planning.programs import shard_bytes

    jax.config.update("jax_platforms", "cpu")  # nothing runs: a device here is not to be claimed
    try:
        program = pickle.loads((folder / PROGRAM).read_bytes())()
        parts = {name: shard_bytes(tree) for name, tree in program.parts.items()}
        (folder / PARTS).write_text(json.dumps(parts))
        options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
        memory = program.lower().compile(compiler_options=options).memory_analysis()
        held = memory.output_size_in_bytes - memory.alias_size_in_bytes
        held += memory.argument_size_in_bytes + memory.temp_size_in_bytes
        outcome = {"memory": held}
    except InputError as error:
        outcome = {"input": str(error)}
    except jax.errors.JaxRuntimeError as error:
        outcome = {"error": str(error)}
    (folder / OUTCOME).write_text(json.dumps(outcome))


def _leave_with(parent: int, folder: Path) -> None:
    """End this process and clean up once its parent is gone; a compiler would go on for an hour."""
    while os.getppid() == parent:  # an orphan gets another parent
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    _compile(Path(sys.argv[1]))
