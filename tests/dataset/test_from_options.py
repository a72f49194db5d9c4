"""The command: networks of one's own, what it prints, and what it refuses before any work."""

import sys

import pytest

from moa_jax.data.__main__ import main
from moa_jax.dataset.models import open_models
from moa_jax.errors import InputError
from tests.dataset.recorded import Recorded, write_photographs

NETWORK = "tests.dataset.recorded:Recorded"
OWN = ["--captioner", NETWORK, "--grounder", NETWORK, "--segmenter", NETWORK, "--devices", "cpu"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_photographs(folder)
    return folder


def refuse_half(image):
    """Serve as a user's --filter."""
    return "wide" if image.width > image.height else None


def test_the_command_builds_and_counts(source, tmp_path, capsys):
    data = tmp_path / "data"
    given = [*OWN, "--filter", "tests.dataset.test_from_options:refuse_half", "--workers", "2"]
    assert main(["build", str(source), str(data), *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "filter: 4 pictures dropped"
    assert lines[1] == f"{data}: 2 pictures with 2 subjects; 2 pictures done now"
    assert lines[2].endswith(f": python -m moa_jax.data check {data}")
    assert (
        "| filter | tests.dataset.test_from_options:refuse_half |"
        in (data / "README.md").read_text()
    )


def test_networks_of_the_same_name_are_one_object_a_device():
    names = dict.fromkeys(("captioner", "grounder", "segmenter"), f"{NETWORK}(delay=0.5)")
    first, second = open_models(names, ["cpu", "cuda:1"])
    assert first.captioner is first.grounder is first.segmenter is not second.captioner
    assert isinstance(first.captioner, Recorded) and first.captioner.delay == 0.5
    assert (first.captioner.device, second.captioner.device) == ("cpu", "cuda:1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--captioner", "sam2"], "--captioner='sam2': choose one of florence2"),
        (["--segmenter", "absent:Class"], "there is no module"),
        (["--grounder", "collections:Counter"], "is no grounder: it has no method ground"),
        (["--filter", "os:absent"], "no class or function"),
        (["--workers", "0"], "--workers=0: must be at least 1"),
        (["--captioner", "moa_jax.dataset.florence2:Florence2(model='/')"], "no Florence2"),
    ],
)
def test_wrong_arguments_are_named(source, tmp_path, capsys, given, message):
    assert main(["build", str(source), str(tmp_path / "data"), *OWN, *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_the_folders_are_looked_at_before_any_network_is_loaded(tmp_path, capsys):
    assert main(["build", str(tmp_path), str(tmp_path / "x")]) == 2
    assert "lie in one another" in capsys.readouterr().err


def test_without_torch_the_extra_is_named(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["build", str(source), str(tmp_path / "data")]) == 2
    assert "pip install 'moa_jax[build]'" in capsys.readouterr().err


def test_a_network_that_the_hub_does_not_give_is_told():
    names = {"captioner": "florence2", "grounder": "florence2", "segmenter": "sam2"}
    with pytest.raises(InputError, match="Florence-2-large.*hub does not give it"):
        open_models(names, ["cpu"])


class Nobody:
    """Serve as a user's --faces: finds none."""

    name, licence, source, same_person = "nobody", "CC0", "this test", 0.5

    def find(self, image):
        return []

    def embed(self, image, faces):
        raise AssertionError("there is no face")


def test_a_recognizer_of_ones_own_is_opened_by_its_name(source, tmp_path, capsys):
    pytest.importorskip("moa_jax.faces")
    own = "tests.dataset.test_from_options:Nobody"
    given = ["build", str(source), str(tmp_path / "data"), *OWN, "--pair"]
    assert main([*given, "--faces", own]) == 2
    assert "3 faces" in capsys.readouterr().err
    assert main([*given, "--faces", "absent"]) == 2
    assert "--faces='absent'" in capsys.readouterr().err
