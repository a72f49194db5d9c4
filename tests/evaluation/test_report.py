"""The files that a study leaves: every row and number is in them."""

import json

import numpy as np
import pytest

from moa_jax.evaluation.toy.findings import Results, RowResult
from moa_jax.evaluation.toy.report import SHOWN, choose_trials, write_report
from moa_jax.evaluation.toy.tables import STUDY
from tests.evaluation.made_up import TRIALS, numbers, renders


@pytest.fixture
def results():
    rows = [
        RowResult("prior", "the prior", (numbers(0.5),)),
        RowResult("moa", "MoA", (numbers(0.80), numbers(0.82)), (0, 1)),
        RowResult("single-branch", "single branch", ()),
        RowResult("no-router-loss", "no router loss", (numbers(0.81),), (0,)),
    ]
    return Results(renders(), rows, {"steps": 25, "guidance_scale": 4.0})


def test_every_row_that_was_measured_is_reported(results, tmp_path):
    pictures = {
        name: np.full((SHOWN, 64, 64, 3), shade, np.uint8)
        for name, shade in (("prior", 90), ("moa", 200))
    }
    values, page, figure = write_report(tmp_path / "new", results, STUDY, TRIALS, pictures)
    kept = json.loads(values.read_text())
    assert [len(row["runs"]) for row in kept["rows"]] == [1, 2, 0, 1]
    assert kept["rows"][1]["runs"][1] == numbers(0.82)
    text = page.read_text()
    assert "| MoA | 2 | 82.0 ± 2.8 | 81.0 ± 1.4 |" in text
    assert "single branch |" not in text
    assert "| no router loss | 1 |" in text and "no measurable effect |" in text
    assert "not judged" in text and "**not reached**" in text
    assert figure.stat().st_size > 20_000


def test_a_report_without_pictures_is_the_table_alone(results, tmp_path):
    files = write_report(tmp_path, results)
    assert all(file.stat().st_size > 1000 for file in files)


def test_the_figure_shows_people_of_one_noise_side_by_side():
    chosen = [TRIALS[i] for i in choose_trials(TRIALS)]
    assert len(chosen) == SHOWN
    first, second = chosen[: SHOWN // 2], chosen[SHOWN // 2 :]
    assert len({trial.noise for trial in first}) == len({trial.noise for trial in second}) == 1
    assert len({trial.people for trial in chosen}) == SHOWN
