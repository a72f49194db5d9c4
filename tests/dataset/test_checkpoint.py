"""Where a network comes from, and what the card says of it."""

import pytest

from moa_jax.dataset.checkpoint import fetch, load
from moa_jax.errors import InputError
from tests.hub.stand_in import Repository

NAME = "owner/network"


@pytest.fixture
def network(hub):
    hub.repositories[NAME] = Repository()
    first = hub.repositories[NAME].commit("main", {"config.json": b"{}", "code.py": b"boom"})
    second = hub.repositories[NAME].commit("main", {"config.json": b'{"x": 1}'})
    return first, second


def test_the_commit_that_was_found_is_told(network):
    folder, about = fetch(NAME, None, "MIT")
    assert about == f"{NAME}, commit {network[1]} (MIT)"
    assert (folder / "config.json").read_text() == '{"x": 1}'
    assert not (folder / "code.py").exists()  # no code is fetched


def test_another_commit_may_be_named(network):
    folder, about = fetch(NAME, network[0], "MIT")
    assert about == f"{NAME}, commit {network[0]} (MIT)"
    assert (folder / "config.json").read_text() == "{}"
    with pytest.raises(InputError, match="no revision 'absent'"):
        fetch(NAME, "absent", "MIT")


def test_of_a_folder_no_revision_is_known(tmp_path):
    about = f"the folder {tmp_path}, no revision known (MIT)"
    assert fetch(str(tmp_path), None, "MIT") == (tmp_path, about)


def test_a_class_that_transformers_lacks_is_told(tmp_path):
    with pytest.raises(InputError, match="has no Florence9: pip install -U transformers"):
        load("Florence9", tmp_path, "cpu", "float32")
