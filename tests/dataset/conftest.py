"""The photographs of the builder's tests."""

import pytest

from tests.dataset.recorded import write_photographs


@pytest.fixture(scope="session")
def six_photographs(tmp_path_factory):
    """See `tests.dataset.recorded`. Read only."""
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder)
    return folder


@pytest.fixture
def source(tmp_path, six_photographs):
    """One picture, to which a test adds what it is about."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "astronaut.jpg").write_bytes((six_photographs / "astronaut.jpg").read_bytes())
    return folder
