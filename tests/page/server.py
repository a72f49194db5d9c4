"""A page in a process of its own, as users start it, and the pictures that tests drop on it."""

import io
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from moa_jax.page.uploads import IN_MEMORY
from moa_jax.toyworld.world.scenes import draw_subject
from tests.compiling import on_one_device

ROOT = Path(__file__).parents[2]


class Server:
    """Where a page is served."""

    def __init__(self, process, port, scratch, before):
        self.process, self.scratch, self._before = process, scratch, before
        self.url = f"http://127.0.0.1:{port}/"

    def folders(self):
        """The folder for uploads, wherever the system has memory for it."""
        return [each for each in private_folders(self.scratch) if each not in self._before]

    def files(self):
        """All files that the page may have written."""
        found = [*self.scratch.rglob("*")]
        for folder in self.folders():
            found += folder.rglob("*")
        return [path for path in found if path.is_file()]

    def stop(self):
        self.process.terminate()
        assert self.process.wait(30) == 0


def private_folders(scratch):
    return [*IN_MEMORY.glob("moa_jax-page-*"), *scratch.glob("moa_jax-page-*")]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def serving(scratch, command, cwd=ROOT, seconds=120, **variables):
    """Start a command that serves a page on a port, and wait until it does.

    Args:
        scratch: the folder for temporary files of the process.
        command: what Python runs; "PORT" stands for the port.
    """
    port, before = free_port(), private_folders(scratch)
    command = [each.replace("PORT", str(port)) for each in command]
    variables = {name: each.replace("PORT", str(port)) for name, each in variables.items()}
    environment = {**on_one_device(), "TMPDIR": str(scratch), **variables}
    environment |= {"HOME": str(scratch), "PYTHONUNBUFFERED": "1"}
    log = scratch.parent / f"{scratch.name}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=cwd, env=environment, stdout=out, stderr=out
        )
    server = Server(process, port, scratch, before)
    try:
        end = time.monotonic() + seconds
        while not answers(server.url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


SECRET = b"taken at home by the window"  # as cameras write into a picture


def photo(seed=20):
    """A picture of somebody as a phone writes it, with EXIF."""
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    file = io.BytesIO()
    draw_subject(seed, 96).save(file, "JPEG", exif=exif)
    return file.getvalue()


def chromium():
    """Debian's browser, or None."""
    import shutil

    return os.environ.get("MOA_CHROMIUM") or shutil.which("chromium")
