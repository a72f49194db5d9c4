"""What a command settles before it computes: what JAX and XLA print, and where programs are kept.

Importing `moa_jax` calls `quiet`, and the commands call `keep_programs`, which imports jax.
"""

import hashlib
import os
import platform
import sys
from pathlib import Path

from moa_jax.errors import InputError

CACHE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own variable
MAX_BYTES = 16 * 2**30  # the programs that were used longest ago give way
WORTH_KEEPING = 0.1  # seconds of compilation; less is compiled as fast as it is read

# What libtpu otherwise asks a metadata server for, and complains about on a machine without a TPU.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
}
# Any of these says that there is one, or that the user knows better.
_HINTS = (
    "JAX_FORCE_TPU_INIT TPU_NAME TPU_WORKER_ID TPU_WORKER_HOSTNAMES TPU_ACCELERATOR_TYPE "
    "TPU_VISIBLE_CHIPS TPU_VISIBLE_DEVICES TPU_CHIPS_PER_HOST_BOUNDS"
).split()
_set_here: set[str] = set()  # which of these variables `quiet` has set: they hint at nothing
_GOOGLE = "0x1ae0"  # as PCI knows the maker of TPUs
_GPUS = ("/dev/nvidiactl", "/dev/kfd")


def quiet() -> None:
    """Keep libtpu and XLA from printing what means nothing on this machine.

    Where libtpu is installed and there is no TPU, it prints warnings and the stack of an error that
    does no harm. On a machine with nothing but a CPU, XLA prints two error lines for every program
    that it reads from a cache, about features that no CPU has. XLA reads how much to print when jax
    is imported, so this has to come first. Variables that are set already stay.
    """
    if has_tpu():
        return
    _set_here.update(_NO_TPU.keys() - os.environ.keys())
    for name, value in _NO_TPU.items():
        os.environ.setdefault(name, value)
    if "jax" not in sys.modules and not any(map(os.path.exists, _GPUS)):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def has_tpu(root: Path = Path("/")) -> bool:
    """Tell whether anything here hints at a TPU: a chip, a device file, a variable.

    Args:
        root: root of the file system.
    """
    if any(name in os.environ for name in _HINTS if name not in _set_here):
        return True
    if any((root / "dev").glob("accel*")) or any((root / "dev" / "vfio").glob("[0-9]*")):
        return True
    makers = (root / "sys" / "bus" / "pci" / "devices").glob("*/vendor")
    return any(maker.read_text().strip() == _GOOGLE for maker in makers)


def keep_programs(keep: bool = True) -> None:
    """Keep compiled programs on disk, so that the next start of a command does not compile again.

    The folder is JAX_COMPILATION_CACHE_DIR or, by default, one in the user's cache folder for
    machines of this kind.

    Args:
        keep: whether to keep them at all.

    Raises:
        InputError: the folder cannot be made.
    """
    import jax

    if not keep:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if jax.config.jax_compilation_cache_dir is None:
        folder = default_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"compiled programs cannot be kept in {str(folder)!r} ({error}): set {CACHE} to "
                "a folder that can be written to, or give --no-cache"
            ) from error
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)


def default_folder() -> Path:
    """Name the user's folder for compiled programs.

    Machines of another kind have another folder, even if they share a home, because a program that
    was compiled for one CPU may not run on another.
    """
    return cache_folder() / f"programs-{_machine()}"


def cache_folder() -> Path:
    """Name the user's folder for what this package keeps, and what may be deleted at any time."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "moa_jax"


def _machine() -> str:
    """Return a short name of this kind of machine: its architecture and its CPU's features."""
    kind = platform.machine() + platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        kind += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(kind.encode()).hexdigest()[:8]
