"""The tables that can be made, and several trainings at once."""

import sys

import pytest

from moa_jax.config import Config, flatten, load_config, override
from moa_jax.errors import InputError
from moa_jax.evaluation.toy import jobs
from moa_jax.evaluation.toy.jobs import measure_at_once, side_by_side
from moa_jax.evaluation.toy.rows import Row, Training
from moa_jax.evaluation.toy.study import Study
from moa_jax.evaluation.toy.tables import TABLES, find_table
from moa_jax.method.variant import resolve

CONFIG = "configs/toy.py"


def test_every_row_of_the_lab_is_the_recipe_with_a_neighbour_in_moas_place():
    config = load_config(CONFIG)
    names = [row.name for row in TABLES["lab"].rows(config)]
    assert names[:3] == ["prior", "moa", "single-branch"] and len(names) == len({*names})
    for row in TABLES["lab"].rows(config)[3:]:
        changed = dict(flatten(override(config, row.overrides)).items() - flatten(config).items())
        resolve(changed.pop("method.mixture"))  # there is such a class, with such options
        assert set(changed) <= {"optimizer.muon_learning_rate", "data.encoded"}, row


def test_a_table_of_ones_own_is_a_function_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_rows.py").write_text(
        "from moa_jax.evaluation.toy.rows import Row\n"
        "def half_size(config):\n"
        "    return [Row('prior', 'prior', seeds=0), Row('moa', f'{config.train.steps} steps')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    table = find_table("my_rows:half_size")
    assert (table.name, table.title, table.judged) == ("half_size", "half size", False)
    assert table.command.endswith(" toy --table my_rows:half_size")
    assert [row.title for row in table.rows(Config())] == ["prior", f"{Config().train.steps} steps"]


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="--table labs: must be study, lab, or package.module:"):
        find_table("labs")


def test_commands_run_side_by_side_and_the_failed_are_named(tmp_path):
    # Each waits for the other's file: one after the other, both give up.
    wait = "import pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\n"
    wait += "for _ in range(1200):\n    if pathlib.Path(sys.argv[2]).exists(): break\n"
    wait += "    time.sleep(0.05)\nelse:\n    sys.exit('alone')\nprint('met')\n"
    python = [sys.executable, "-c"]
    commands = {
        "a": [*python, wait, str(tmp_path / "a"), str(tmp_path / "b")],
        "b": [*python, wait, str(tmp_path / "b"), str(tmp_path / "a")],
        "c": [*python, "raise SystemExit(3)"],
    }
    ended = []
    with pytest.raises(InputError, match=r"1 of 3 failed: c \(exit code 3, .*/logs/c.txt\)"):
        side_by_side(commands, 2, tmp_path / "logs", lambda *counts: ended.append(counts))
    assert (tmp_path / "logs/a.txt").read_text() == "met\n"
    assert ended == [(1, 3), (2, 3), (3, 3)]


def test_what_all_read_is_there_before_the_first_begins(tmp_path, monkeypatch):
    done = []

    study = Study("base", tmp_path)
    monkeypatch.setattr(Study, "renders", lambda _: done.append("renders"))
    monkeypatch.setattr(Study, "prior", lambda _: done.append("prior"))
    monkeypatch.setattr(
        jobs, "ensure_encoded", lambda row, config, extra: done.append((row.name, config, extra))
    )
    monkeypatch.setattr(
        jobs, "side_by_side", lambda commands, count, *_: done.append((count, commands))
    )
    a, b = Row("a", "A", seeds=2), Row("b", "B")
    trainings = [Training(row, seed, {}) for row, seed in ((a, 0), (a, 1), (b, 0))]
    prior = Training(Row("prior", "prior", seeds=0), 0, {})
    measure_at_once(study, [prior, *trainings], 4, ["measure"], "toy.py", ["x=1"])
    *before, (count, commands) = done
    assert before == [("a", "toy.py", ["x=1"]), ("b", "toy.py", ["x=1"]), "renders", "prior"]
    assert count == 4
    assert list(commands) == ["a-0", "b-0", "a-1"]  # the first of every row before any second
    assert commands["a-1"] == ["measure", "--rows=a", "--seed=1"]
    done.clear()
    measure_at_once(study, [prior], 4, ["measure"], "toy.py")
    assert not done
