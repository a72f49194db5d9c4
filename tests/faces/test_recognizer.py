"""Opening a recognizer by its name, and what is said when that fails."""

import sys

import pytest

from moa_jax.errors import InputError
from moa_jax.faces.recognizer import BUILT_IN, open_recognizer


class Own:
    """A user's recognizer."""

    name, licence, source, same_person = "own", "mine", "here", 1.0

    def __init__(self, size=1):
        self.size = size

    def find(self, image):
        return []

    def embed(self, image, faces):
        return None


def test_a_class_of_ones_own_is_opened_with_its_options():
    opened = open_recognizer("tests.faces.test_recognizer:Own(size=3)")
    assert type(opened).__name__ == "Own" and opened.size == 3


def test_dlib_is_the_default_and_says_its_licences():
    opened = open_recognizer()
    assert opened.name == "dlib" and "CC0" in opened.licence and "Boost" in opened.licence


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="--judge='dlob': must be dlib, facenet, auraface:FILE"):
        open_recognizer("dlob", "--judge")


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_missing_library_is_named_with_the_remedy(name, monkeypatch, tmp_path):
    for library in ("dlib", "torch", "onnxruntime"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=f"recognizer {name} needs the library .*pip install"):
        open_recognizer(f"{name}:{tmp_path}" if name == "auraface" else name)
