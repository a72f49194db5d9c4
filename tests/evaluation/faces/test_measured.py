"""What was measured is kept line by line, through a kill in the middle of one."""

import pytest

from moa_jax.errors import InputError
from moa_jax.evaluation.faces.measured import Measured


def test_numbers_are_found_again_by_the_same_judge_alone(tmp_path):
    file = tmp_path / "deep" / "a.jsonl"
    Measured(file, ["dlib", b"ann"]).add("picture", {"identity": 0.5, "distance": None})
    again = Measured(file, ["dlib", b"ann"])
    assert again.find("picture") == {"identity": 0.5, "distance": None}
    assert again.find("other") is None
    for judge in (["dlib", b"bob"], ["facenet", b"ann"], ["dli", b"bann"]):
        assert Measured(file, judge).find("picture") is None


def test_a_line_that_was_cut_short_is_measured_again(tmp_path):
    file = tmp_path / "a.jsonl"
    for i in range(3):
        Measured(file, ["dlib"]).add(f"p{i}", {"identity": i})
    file.write_text(file.read_text()[:-20])
    again = Measured(file, ["dlib"])
    assert again.find("p1") == {"identity": 1} and again.find("p2") is None
    again.add("p2", {"identity": 2})
    assert Measured(file, ["dlib"]).find("p2") == {"identity": 2}


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "measured").touch()
    with pytest.raises(InputError, match="measured/a.jsonl cannot be written"):
        Measured(tmp_path / "measured" / "a.jsonl", []).add("p", {})
