"""The bars of long work: seen on a terminal, silent in a log."""

import os
import pty
import subprocess
import sys

COUNT = """
from moa_jax.cli import track
assert list(track((n for n in range(3)), "counting", 3)) == [0, 1, 2]
assert list(track([4, 5], "again")) == [4, 5]
"""


def test_a_log_holds_no_bar_whatever_the_environment_says_of_colours():
    environment = os.environ | {"FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_terminal_shows_how_many_parts_of_how_many_are_done():
    terminal, program = pty.openpty()
    subprocess.run([sys.executable, "-c", COUNT], stderr=program, check=True)
    os.close(program)
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert "counting" in shown and "3/3" in shown
    assert "again" in shown and "2/2" in shown
