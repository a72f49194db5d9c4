"""What the tests of plans share: the compiler for TPUs, and what it said."""

import importlib.util
from functools import cache

import pytest

from moa_jax.planning.usage import measure

libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: libtpu"
)


@pytest.fixture(scope="session")
def measured():
    """`measure`, once for each program."""
    return cache(measure)
