"""Load a checkpoint, or only read its bytes, and print what that took: one process of `loading`.

    python -m benchmarks.load_once load FOLDER [DTYPE]
    python -m benchmarks.load_once read FOLDER

Nothing is imported before the clock runs, so that the imports are measured too.
"""

import json
import resource
import sys
import time
from pathlib import Path

BLOCK = 2**24  # bytes of one read


def load(folder: str, dtype: str | None = None) -> dict[str, float]:
    """Load a checkpoint as drawing does.

    Args:
        dtype: of the weights; None means what drawing takes on this machine.

    Returns:
        Seconds of the imports and of the load, the processor's among them; bytes of the weights;
        and by how many bytes the process's peak is above what it held before the load.
    """
    began = time.perf_counter()
    import jax

    from moa_jax.runtime import keep_programs
    from moa_jax.sampling.load import load as load_checkpoint
    from moa_jax.sampling.pipeline import Pipeline

    keep_programs()  # and with them the shapes of the networks, as the commands do
    jax.devices()
    start, work, before = time.perf_counter(), time.process_time(), _resident()
    pipeline = Pipeline(*load_checkpoint(folder, dtype=dtype))
    tower = pipeline.base.image_encoder
    held = jax.block_until_ready((pipeline.params, tower and tower.params))
    return {
        "import_seconds": start - began,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - work,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
        "weight_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(held)),
    }


def read(folder: str) -> dict[str, float]:
    """Read every byte of a checkpoint's weights into one buffer, which keeps none."""
    start, work, size = time.perf_counter(), time.process_time(), 0
    buffer = bytearray(BLOCK)
    for path in sorted(Path(folder).rglob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while part := file.readinto(buffer):
                size += part
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - work,
        "bytes": size,
    }


def _resident() -> int:
    """Give the bytes that this process has in memory now, as Linux tells it."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    print(json.dumps({"load": load, "read": read}[sys.argv[1]](*sys.argv[2:])))
