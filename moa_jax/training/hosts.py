"""Many hosts: how a process joins the others, which of them speaks, and how it leaves.

Every host runs the same command. The first (process 0) prints and writes; only checkpoints are
written by all hosts, into one folder that all of them see. If a host is lost, the others end too,
so that a scheduler can start all again. Nothing here depends on the model or on the mesh.

The numbers of a run depend on the batch, the devices and the mesh, not on the number of hosts.
Another number of devices, or another preset, sums in another order. Each host reports and counts
(`data.max_bad_fraction`) only the bad records of its own rows.
"""

import contextlib
import inspect
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from moa_jax.errors import InputError, LostHost

Result = TypeVar("Result")

# For launches by hand. jax itself reads only the first, and finds clusters by their own variables.
ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

# Seconds. A version of jax that does not know a limit keeps its own.
LIMITS = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 60}
GRACE = 5.0  # seconds that the first host, which serves the others, waits for them to leave

# What the libraries say when another host is gone.
LOST = re.compile(
    r"gloo|nccl|heartbeat|coordination service|connection (reset|closed|refused)|socket closed"
    r"|UNAVAILABLE|DEADLINE_EXCEEDED|DATA_LOSS|Barrier (timed out|failed)|shut ?down",
    re.IGNORECASE,
)


def join(asked: bool) -> bool:
    """Join the other hosts before the first use of a device; all but the first fall silent.

    Args:
        asked: if nothing says who the other hosts are, True fails and False runs this host alone.

    Returns:
        Whether there are other hosts, by the variables above or by jax's detection of Cloud TPU,
        GKE, Slurm and Open MPI. A jax without this detection gives a warning, and means no others.

    Raises:
        InputError: only some of the variables are set, one is not a number, or the other hosts are
            not found.
    """
    given = _variables()
    if not (asked or given or _in_cluster()):
        return False
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    known = inspect.signature(jax.distributed.initialize).parameters
    limits = {key: value for key, value in LIMITS.items() if key in known}
    try:
        jax.distributed.initialize(**given, **limits)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the other hosts cannot be joined ({error}): start this command on every host, under "
            f"Slurm, Open MPI or on a Cloud TPU slice, or set {ADDRESS}=HOST:PORT of the first "
            f"host, {COUNT} and {NUMBER} (0, 1, ...) on each"
        ) from error
    if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as we run)
    return True


def _variables() -> dict[str, Any]:
    """Read the variables of a launch by hand."""
    found = {name: os.environ[name] for name in (ADDRESS, COUNT, NUMBER) if name in os.environ}
    if not found.keys() & {COUNT, NUMBER}:
        return {}  # with the address alone, a cluster tells the rest
    missing = [name for name in (ADDRESS, COUNT, NUMBER) if name not in found]
    if missing:
        raise InputError(f"{', '.join(found)} is set, but {', '.join(missing)} is not: set it too")
    for name in (COUNT, NUMBER):
        if not found[name].isdecimal():
            raise InputError(f"{name}={found[name]!r} must be a whole number")
    count, number = int(found[COUNT]), int(found[NUMBER])
    if number >= count:
        raise InputError(f"{NUMBER}={number} must be 0 to {COUNT}-1={count - 1}")
    return {"coordinator_address": found[ADDRESS], "num_processes": count, "process_id": number}


def _in_cluster() -> bool:
    """Ask jax's own detection whether this is one of several processes of a cluster's job.

    jax has no public name for this, and a later version may remove the private ones.
    """
    try:
        from jax._src.clusters import ClusterEnv

        kinds = (kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method)
        kind = next((kind for kind in kinds if kind.is_env_present()), None)
        return kind is not None and kind.get_process_count() > 1
    except (ImportError, AttributeError) as error:
        warnings.warn(
            f"jax {jax.__version__} does not tell whether this is one host of several ({error}): "
            "the run starts alone. If there are others, start all with --distributed",
            stacklevel=3,
        )
        return False


def first() -> bool:
    """Tell whether this host is the one that prints and writes."""
    return jax.process_index() == 0


def gathered(tree: Any) -> Any:
    """Gather arrays that are split over hosts on every host, as numpy; all hosts must call it."""

    def fetch(array: Any) -> np.ndarray:
        if getattr(array, "is_fully_addressable", True) or array.is_fully_replicated:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(fetch, tree)


def together(read: Callable[[], Result]) -> Result:
    """Call `read` on every host; if it fails on one, it fails on all. All hosts must call this.

    Raises:
        Exception: what `read` raised on this host.
        RuntimeError: it failed only on other hosts.
    """
    failure: Exception | None = None
    try:
        result = read()
    except Exception as error:  # of any kind: raised below, once the others know
        failure = error
    failed = multihost_utils.process_allgather(np.array(failure is not None)).reshape(-1)
    if failure is not None:
        raise failure
    if failed.any():
        numbers = ", ".join(str(number) for number in np.flatnonzero(failed))
        raise RuntimeError(f"it cannot be read on host {numbers}")
    return result


def divided(count: int, read: Callable[[range], np.ndarray]) -> np.ndarray:
    """Let each host read a part of some numbered things; all get all. All hosts must call this.

    Args:
        count: how many there are; it must be the same on all hosts.
        read: gives a row of whole numbers for each number of a range.

    Raises:
        InputError: the hosts count differently.
        Exception: what `read` raised on this host.
        RuntimeError: it failed only on other hosts.
    """
    hosts = jax.process_count()
    if hosts == 1:
        return read(range(count))
    counts = multihost_utils.process_allgather(np.array(count)).reshape(-1)
    if len(set(counts.tolist())) > 1:
        listed = ", ".join(f"host {host} finds {found}" for host, found in enumerate(counts))
        raise InputError(f"the hosts do not see the same data set: {listed}; give all the same")
    most = -(-count // hosts)  # rounded up; the last hosts may have less to read
    start = min(most * jax.process_index(), count)
    rows = together(lambda: read(range(start, min(start + most, count))))
    padded = np.zeros((most, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return multihost_utils.process_allgather(padded).reshape(-1, *rows.shape[1:])[:count]


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Say that a host is lost, where a library fails because of it.

    Raises:
        LostHost: another host is gone; the message quotes the library.
    """
    try:
        yield
    except (InputError, LostHost):
        raise
    except (RuntimeError, ValueError, OSError) as error:
        if jax.process_count() == 1 or not LOST.search(str(error)):
            raise
        line = str(error).strip().splitlines()[0]
        raise LostHost(
            f"host {jax.process_index()} of {jax.process_count()}: another host is gone ({line}); "
            "start all hosts again, and the run goes on from its newest checkpoint"
        ) from error


def leave(code: int) -> int:
    """End this host's part with an exit code.

    After a failure it does not wait for the other hosts, as jax would at exit: they may never come.
    """
    if code == 0 or not jax.distributed.is_initialized():
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    if first():
        time.sleep(GRACE)
    os._exit(code)
