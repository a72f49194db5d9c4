"""Devices that are not here: TPU topologies, from the TPU compiler's own package."""

import importlib.util
import math
import os
import re
from dataclasses import replace
from typing import Any

import jax

from moa_jax.errors import InputError
from moa_jax.training.chips import Chip, find_chip

INSTALL = "pip install 'moa_jax[tpu]'"

# Without these libtpu asks Google's metadata server who this machine is, and complains about what
# it does not find. Its lines are harmless.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def topology_devices(name: str) -> list[Any]:
    """Give the devices of a TPU topology to compile for; no TPU is needed.

    Args:
        name: kind and chips along each axis, e.g. "v5e:4x4", "v6e:16x16", "v5p:2x2x2".

    Raises:
        InputError: libtpu is not installed, or it knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"--plan {name}: the TPU compiler is not installed: {INSTALL}; it needs no TPU"
        )
    sides = re.search(r"[:=_]([0-9x]+)$", name)
    options = {}
    if sides:
        chips = [int(side) for side in sides[1].split("x") if side]
        if math.prod(chips) < 4:  # fewer than the four chips of a host
            options["chips_per_host_bounds"] = [*chips, 1, 1][:3]
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(name, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--plan {name}: libtpu knows no such topology ({reason}); e.g. v5e:1x1, v5e:4x4, "
            "v6e:2x4, v5p:2x2x2"
        ) from error


def topology_chip(device: Any) -> Chip | None:
    """Say what a device of a topology can do; None means that its kind is not listed.

    For v4 the compiler's topologies count each of the two cores as a device. A running program has
    both as one.
    """
    chip = find_chip(device.device_kind)
    if chip is None or chip.name != "v4":
        return chip
    halved = {name: getattr(chip, name) / 2 for name in ("flops", "memory_bandwidth", "memory")}
    return replace(chip, name="v4 core", link_bandwidth=chip.link_bandwidth / 2, **halved)
