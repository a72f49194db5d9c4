"""What a command settles before it computes: where programs are kept, and what is not printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moa_jax import runtime
from moa_jax.errors import InputError

# Draws with the committed weights; says how many programs were compiled and how many were read.
DRAWS = """\
import moa_jax, jax
from jax import monitoring
seen = []
monitoring.register_event_listener(lambda name, **_: seen.append(name))
from moa_jax.runtime import keep_programs
keep_programs({keep})
print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64))))
jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda i, y: y @ y / 64, x))(jax.numpy.ones((64, 64)))
print(sum(name.endswith("cache_hits") for name in seen))
"""


def start(code, **environment):
    """Run Python as a user's shell would, without what the tests set for themselves."""
    ours = ("JAX_", "TPU_", "TF_CPP_", "XLA_FLAGS")
    plain = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    command = [sys.executable, "-c", code]
    plain["PYTHONPATH"] = str(Path(__file__).parents[1])
    return subprocess.run(command, env=plain | environment, capture_output=True, text=True)


def test_the_next_start_reads_programs_and_nothing_is_printed_that_means_nothing(tmp_path):
    """Without `quiet`, libtpu complains that there is no TPU, and XLA of its own programs."""
    code = DRAWS.format(keep=True).replace(
        "keep_programs(True)",
        "keep_programs(True); jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)",
    )
    homes = {"XDG_CACHE_HOME": str(tmp_path)}
    first, second = start(code, **homes), start(code, **homes)
    for run in (first, second):
        assert (run.returncode, run.stderr) == (0, ""), run.stderr
        assert run.stdout.startswith("262144.0\n")
    assert first.stdout.split()[-1] == "0" and int(second.stdout.split()[-1]) >= 2
    assert any((tmp_path / "moa_jax").glob("programs-*/*cache"))


def test_another_folder_and_none(tmp_path):
    own = start(DRAWS.format(keep=True), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"),
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
                XDG_CACHE_HOME=str(tmp_path / "home"))  # fmt: skip
    assert own.returncode == 0, own.stderr
    assert any((tmp_path / "own").iterdir()) and not (tmp_path / "home").exists()
    none = start(DRAWS.format(keep=False), XDG_CACHE_HOME=str(tmp_path / "home"))
    assert none.returncode == 0 and not (tmp_path / "home").exists()


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path, monkeypatch):
    import jax

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with pytest.raises(InputError, match=r"JAX_COMPILATION_CACHE_DIR.*--no-cache"):
            runtime.keep_programs()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_machines_of_another_kind_have_another_folder(monkeypatch):
    here = runtime.default_folder()
    assert here == runtime.default_folder()
    monkeypatch.setattr(runtime.platform, "machine", lambda: "another")
    assert runtime.default_folder() != here and runtime.default_folder().parent == here.parent


@pytest.mark.parametrize(
    "hint", ["dev/accel0", "dev/vfio/0", "sys/bus/pci/devices/0000:00:05.0/vendor", "TPU_NAME"]
)
def test_whatever_hints_at_a_tpu_leaves_everything_as_it_is(hint, tmp_path, monkeypatch):
    for name in [*runtime._HINTS, *runtime._NO_TPU]:
        monkeypatch.delenv(name, raising=False)
    other = tmp_path / "sys/bus/pci/devices/0000:00:01.0/vendor"
    other.parent.mkdir(parents=True)
    other.write_text("0x8086\n")
    assert not runtime.has_tpu(tmp_path)
    if "/" in hint:
        (tmp_path / hint).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / hint).write_text("0x1ae0\n")
    else:
        monkeypatch.setenv(hint, "mine")
    assert runtime.has_tpu(tmp_path)


def test_what_is_set_to_keep_libtpu_quiet_hints_at_no_tpu(tmp_path, monkeypatch):
    """A notebook asks after importing moa_jax, which has set such variables itself."""
    for name in [*runtime._HINTS, *runtime._NO_TPU]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runtime, "_set_here", set())
    runtime.quiet()
    assert os.environ["TPU_ACCELERATOR_TYPE"] and not runtime.has_tpu(tmp_path)
    monkeypatch.setenv("TPU_NAME", "mine")
    assert runtime.has_tpu(tmp_path)
