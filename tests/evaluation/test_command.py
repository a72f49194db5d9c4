"""The command: which rows it trains and measures, what it prints, how it refuses."""

import json
import sys
from functools import partial

import numpy as np
import pytest

from moa_jax.evaluation.toy import command
from moa_jax.evaluation.toy.study import Study
from tests.evaluation.made_up import PROTOCOL, TRIALS, numbers, renders


class FakeStudy(Study):
    """Measures nothing."""

    protocol, trials, key = PROTOCOL, TRIALS, "this study"

    def __init__(self, base, runs, accuracy=0.97):
        self.base, self.runs, self._accuracy = base, runs, accuracy

    def renders(self):
        return renders(self._accuracy)

    def prior(self, on_batch):
        return self.row(None, self.runs / "prior", on_batch)

    def row(self, weights, cache, on_batch):
        on_batch(1, 2)
        return numbers(0.9)

    def pictures(self, folder):
        return np.zeros((len(TRIALS), 64, 64, 3), np.uint8)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Call the command in a folder of its own; gives the exit code, with what was trained."""
    trained = []
    config = tmp_path / "toy.py"
    config.write_text(
        "from moa_jax.config import Config\n\ndef get_config():\n    return Config()\n"
    )
    monkeypatch.setattr(command, "Study", FakeStudy)
    monkeypatch.setattr(command, "train", lambda row, seed, *_: trained.append((row.name, seed)))
    paths = ["--config", str(config), "--runs", str(tmp_path), "--out", str(tmp_path / "out")]
    return lambda *arguments: (command.main([*paths, *arguments]), trained)


def test_chosen_rows_are_trained_and_reported(run, tmp_path, capsys):
    code, trained = run("--rows", "moa,prior,no-object-loss", "--seeds", "2")
    assert code == 0
    assert trained == [(row, seed) for row in ("moa", "no-object-loss") for seed in (0, 1)]
    page = (tmp_path / "out/toy.md").read_text()
    assert "| MoA, λ_r = 0.0001 | 2 |" in page and "single branch, no prior" not in page
    shown = capsys.readouterr().out
    assert "reached" in shown and "cannot judge" not in shown


def test_one_training_alone_leaves_its_record_and_no_report(run, tmp_path):
    code, trained = run("--rows", "moa", "--seed", "2", "--table", "lab")
    assert code == 0 and trained == [("moa", 2)]
    assert [file.name for file in (tmp_path / "out").rglob("*.json")] == ["moa-2.json"]


def test_several_at_once_are_those_that_are_missing(run, tmp_path, monkeypatch):
    run("--rows", "moa", "--seed", "1")
    asked = []
    monkeypatch.setattr(command, "measure_at_once", lambda *given: asked.append(given[1:]))
    run("--rows", "moa", "--jobs", "3", "--table", "lab", "data.workers=1")
    missing, jobs, line, config, extra = asked[0]
    assert [training.name for training in missing] == ["moa-0", "moa-2"] and jobs == 3
    line = " ".join(line)
    assert "toy data.workers=1 --config=" in line and "--table=lab" in line
    assert f"--runs={tmp_path} --out={tmp_path / 'out'}" in line
    assert config == str(tmp_path / "toy.py") and extra == ["data.workers=1"]


def test_a_report_trains_nothing_and_keeps_the_rows_of_before(run, tmp_path):
    run("--rows", "prior,moa", "--seeds", "1")
    page = (tmp_path / "out/toy.md").read_text()
    (tmp_path / "out/toy.md").unlink()
    code, trained = run("--report-only")
    assert code == 0 and trained == [("moa", 0)]
    assert (tmp_path / "out/toy.md").read_text() == page


def test_a_row_on_record_is_not_trained_again_on_another_machine(run, tmp_path):
    run("--rows", "prior,moa", "--seeds", "1")
    page = (tmp_path / "out/toy.md").read_text()
    elsewhere = ["--rows", "prior,moa", "--runs", str(tmp_path / "elsewhere")]
    code, trained = run(*elsewhere, "--seeds", "1")
    assert code == 0 and trained == [("moa", 0)]
    assert (tmp_path / "out/toy.md").read_text() == page
    run(*elsewhere, "--seeds", "2")
    assert trained == [("moa", 0), ("moa", 1)]


def test_the_figure_shows_a_seed_that_is_on_record(run, tmp_path, monkeypatch):
    run("--rows", "moa", "--seeds", "2")
    (tmp_path / "out/rows/moa-0.json").unlink()
    (tmp_path / "out/rows/moa-0.png").unlink()
    shown = []
    monkeypatch.setattr(command, "write_report", lambda *given: shown.append(given[3]))
    run("--report-only")
    assert [*shown[0]] == ["moa"]


def test_a_row_of_another_recipe_is_trained_again(run):
    run("--rows", "moa", "--seeds", "1")
    _, trained = run("--rows", "moa", "--seeds", "1", "optimizer.weight_decay=0.5")
    assert trained == [("moa", 0), ("moa", 0)]


def test_an_outdated_row_is_shown_with_the_reason_until_it_is_trained_again(run, tmp_path, capsys):
    run("--rows", "moa", "--seeds", "1")
    file = tmp_path / "out/rows/moa-0.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "outdated": "was another thing."}))
    run("--report-only")
    reason = "MoA, λ_r = 0.0001 (to be trained again): was another thing."
    page = (tmp_path / "out/toy.md").read_text()
    assert reason in page and "| MoA, λ_r = 0.0001 (to be trained again) | 1 |" in page
    assert reason in capsys.readouterr().out.replace("\n", " ")
    _, trained = run("--rows", "moa", "--seeds", "1")
    assert trained == [("moa", 0), ("moa", 0)]
    assert "to be trained again" not in (tmp_path / "out/toy.md").read_text()


def test_given_weights_are_measured_without_training(run, tmp_path):
    (tmp_path / "mine").mkdir()
    code, trained = run("--moa", str(tmp_path / "mine"))
    assert code == 0 and not trained
    assert "| MoA, mine/ | 1 |" in (tmp_path / "out/toy.md").read_text()
    measured = (tmp_path / "out/rows/moa-0.json").stat().st_mtime_ns
    run("--moa", str(tmp_path / "mine"))
    assert (tmp_path / "out/rows/moa-0.json").stat().st_mtime_ns > measured


def test_given_weights_may_be_those_of_the_hub(run, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(FakeStudy, "row", lambda _, moa, *__: measured.append(moa) or numbers(0.9))
    monkeypatch.setattr(command, "find_moa", lambda *asked: tmp_path / "found" / "_".join(asked))
    assert run("--moa", "owner_moa@v1")[0] == 0
    assert tmp_path / "found" / "owner_moa@v1_--moa" in measured
    assert "| MoA, owner_moa@v1 | 1 |" in (tmp_path / "out/toy.md").read_text()


def test_several_weights_have_a_row_each(run, tmp_path, monkeypatch):
    measured = {}

    def row(self, weights, cache, on_batch):
        measured[cache] = weights
        return numbers(0.9 if weights is None or weights.name == "mine" else 0.4)

    monkeypatch.setattr(FakeStudy, "row", row)
    (tmp_path / "my_own_idea.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    code, trained = run("--moa", str(mine), "--moa", str(other), "--plugin", "my_own_idea")
    assert code == 0 and not trained and "my_own_idea" in sys.modules
    page = (tmp_path / "out/toy.md").read_text()
    assert "| MoA, mine/ | 1 | 100.0 | 90.0 |" in page
    assert "| MoA, other/ | 1 | 0.0 | 40.0 |" in page
    assert set(measured.values()) == {None, mine, other} and len(measured) == 3


def test_a_weak_reader_is_called_so(run, monkeypatch, capsys):
    monkeypatch.setattr(command, "Study", partial(FakeStudy, accuracy=0.9))
    run("--report-only")
    assert "the reader of 'place' is under 95 %" in capsys.readouterr().out


def test_an_unknown_row_is_refused(run, capsys):
    code, _ = run("--rows", "mao")
    assert code == 2
    assert "the rows are prior, moa, single-branch" in capsys.readouterr().err
