"""What a journal still knows after its file was cut or damaged."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from moa_jax.dataset.journal import NAME, Journal


@pytest.fixture
def folder(tmp_path):
    journal = Journal(tmp_path)
    journal.add("look", "a", "1", {"x": 1})
    journal.add("look", "b", "1", {"x": "é"})
    return tmp_path


def test_entries_are_read_again(folder):
    journal = Journal(folder)
    assert journal.find("look", "a", "1") == {"stamp": "1", "x": 1}
    assert journal.find("look", "b", "1") == {"stamp": "1", "x": "é"}
    assert journal.find("look", "c", "1") is None and journal.find("other", "a", "1") is None


def test_another_stamp_voids_an_entry_and_the_latest_counts(folder):
    Journal(folder).add("look", "a", "2", {"x": 3})
    journal = Journal(folder)
    assert journal.find("look", "a", "1") is None
    assert journal.find("look", "a", "2") == {"stamp": "2", "x": 3}


def test_a_kill_at_any_byte_costs_the_last_line_only(folder):
    whole = (folder / NAME).read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        (folder / NAME).write_bytes(whole[:length])
        journal = Journal(folder)
        assert journal.find("look", "a", "1") and journal.find("look", "b", "1") is None
        journal.add("look", "b", "1", {"x": "é"})  # on a line of its own
        assert (folder / NAME).read_bytes() == whole


def test_a_damaged_line_is_ignored(folder):
    data = bytearray((folder / NAME).read_bytes())
    data[20] ^= 1
    (folder / NAME).write_bytes(data)
    journal = Journal(folder)
    assert journal.find("look", "a", "1") is None and journal.find("look", "b", "1")


def test_threads_may_add(tmp_path):
    journal = Journal(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: journal.add("look", str(n), "1", {"n": n}), range(200)))
    again = Journal(tmp_path)
    assert all(again.find("look", str(n), "1") == {"stamp": "1", "n": n} for n in range(200))
