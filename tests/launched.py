"""Several processes of one command that find each other over loopback; eight devices in all."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from moa_jax.training import hosts
from tests.compiling import xla_flags

ROOT = Path(__file__).parents[1]
DEVICES = 8  # over all processes, as in this one


def start(processes, folder, command, last=None, devices=DEVICES):
    """Start Python with a command, everywhere; the last process has some variables more."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for number in range(processes):
        variables = {hosts.ADDRESS: address, hosts.COUNT: processes, hosts.NUMBER: number}
        variables["XLA_FLAGS"] = xla_flags(devices // processes)
        if last and number == processes - 1:
            variables |= last
        with (folder / f"log{number}").open("w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, *map(str, command)],
                    cwd=ROOT,
                    env=os.environ | {name: str(value) for name, value in variables.items()},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def wait(started, seconds=300):
    """Exit codes of all."""
    try:
        return [process.wait(seconds) for process in started]
    finally:
        for process in started:
            process.kill()


def logs(folder):
    """What each process said."""
    return [path.read_text() for path in sorted(folder.glob("log*"))]
