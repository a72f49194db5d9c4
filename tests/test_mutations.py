"""The runner of the mutations tells a fault that is seen from one that is not, and a stale row."""

import subprocess

import pytest

from tests import mutations
from tests.mutations import Mutation, Outcome, copy_tree, faults_of, stale, table, try_mutation

KILLED, UNSEEN, WRONG = (
    Mutation("sums", fault, "sums.py", "a + b", new, "test_sums.py")
    for fault, new in (("minus", "a - b"), ("swapped", "b + a"), ("no such name", "a + c"))
)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    test = "from sums import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
    (root / "test_sums.py").write_text(test)
    (root / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (root / ".gitignore").write_text(".jax_cache/\nignored\n")
    (root / "ignored").write_text("")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return copy_tree(root, tmp_path / "work" / "tree")


def test_a_fault_is_killed_survives_or_is_none(tree):
    whole = (tree / "sums.py").read_text()
    assert not (tree / "ignored").exists()
    found = [try_mutation(mutation, tree) for mutation in (KILLED, UNSEEN, WRONG)]
    assert [outcome.verdict for outcome in found] == ["killed", "survived", "broken"]
    assert found[0].detail == "test_sums.py::test_add" and "NameError" in found[2].detail
    assert (tree / "sums.py").read_text() == whole
    none = KILLED._replace(tests="test_sums.py::test_subtract")
    assert try_mutation(none, tree).verdict == "broken"


def test_rows_that_do_not_fit_the_source_are_named(tree):
    rows = [
        KILLED._replace(fault="gone", old="a * b"),
        KILLED._replace(fault="twice", old="a"),
        KILLED._replace(fault="the same", new="(a + b)"),
        KILLED._replace(fault="no Python", new="a +"),
        KILLED._replace(fault="no file", file="none.py"),
        KILLED._replace(fault="no test", tests=" "),
        KILLED._replace(fault="no file of tests", tests="test_sums.py test_differences.py"),
        KILLED._replace(fault="no function", tests="test_sums.py::test_subtract[1-2]"),
        KILLED._replace(fault="not its own", tests="test_sums.py::add"),
        KILLED,
        KILLED._replace(tests="test_sums.py::test_add[1-2] test_sums.py"),
    ]
    wrong = stale(rows, tree)
    assert len(wrong) == 9
    for row, message in zip(rows, wrong, strict=False):
        assert f"sums: {row.fault}: " in message


def test_every_row_of_every_area_fits_the_source():
    """A row whose code or whose test moved tries nothing: nobody may have to start it to see so."""
    wrong = stale(mutations.read(mutations.AREAS), mutations.ROOT)
    assert not wrong, "\n".join(wrong)


def test_only_what_went_unnoticed_without_a_reason_is_wrong():
    equal = UNSEEN._replace(equivalent="sums have no order")
    tried = [
        (KILLED, Outcome("killed", "test", 1.0)),
        (equal, Outcome("survived", "", 1.0)),
        (UNSEEN, Outcome("survived", "", 1.0)),
        (equal, Outcome("killed", "test", 1.0)),
        (WRONG, Outcome("broken", "NameError", 1.0)),
    ]
    assert faults_of(tried[:2]) == []
    first, second, third = faults_of(tried)
    assert first.startswith("survived: sums: swapped")
    assert second.startswith("killed, though listed as equivalent: sums: swapped")
    assert third == "broken: sums: no such name: NameError"
    assert table(tried).splitlines()[1].split() == ["sums", "5", "1", "2", "1", "1"]


def test_every_area_has_rows_of_its_own():
    rows = mutations.read(mutations.AREAS)
    assert {row.area for row in rows} == set(mutations.AREAS)
    assert len({(row.file, row.old, row.new) for row in rows}) == len(rows)
    assert mutations.read(mutations.AREAS, "no such fault") == []
    assert rows[0] in mutations.read([rows[0].area], rows[0].fault)
