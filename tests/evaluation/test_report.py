"""The files that a study leaves: every row and number is in them."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from moa_jax.config import load_config
from moa_jax.evaluation.toy.curve import added_weights, draw_curve
from moa_jax.evaluation.toy.findings import Results, RowResult
from moa_jax.evaluation.toy.report import SHOWN, choose_trials, write_report
from moa_jax.evaluation.toy.tables import Table
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
    values, page, figure = write_report(tmp_path / "new", results, TRIALS, pictures)
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


def test_a_table_with_weights_has_a_column_and_a_curve_of_them(results, tmp_path):
    rows = [dataclasses.replace(row, weights=10 ** (4 + i)) for i, row in enumerate(results.rows)]
    counted = dataclasses.replace(results, rows=rows)
    table = Table("mine", "My rows", lambda config: [], option=" --table mine:rows")
    values, page, figure = write_report(tmp_path, counted, table=table)
    assert [file.name for file in (values, page, figure)] == ["mine.json", "mine.md", "mine.png"]
    text = page.read_text()
    assert text.startswith(
        "# My rows\n\nWritten by `python -m moa_jax.evaluation toy --table mine:r"
    )
    assert "| row | trainings | weights |" in text and "| MoA | 2 | 100,000 | 82.0 ± 2.8 |" in text
    assert "What it must show" not in text  # those are the study's own bars
    drawn = Figure()
    left, right = drawn.subplots(1, 2)
    draw_curve((left, right), counted)
    assert [text.get_text() for text in left.texts] == ["moa", "no-router-loss", "prior"]
    means = [line.get_xydata()[0] for line in left.lines if line.get_fillstyle() == "full"]
    assert np.allclose(means[1], (1e5, 82.0))


def test_no_name_in_the_curve_covers_another(results):
    rows = [dataclasses.replace(row, weights=10_000) for row in results.rows]
    ax, other = Figure().subplots(1, 2)
    draw_curve((ax, other), dataclasses.replace(results, rows=rows))
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_the_weights_of_a_row_are_those_added_to_the_unet():
    """The literals were counted by hand: the copies, and the routers."""
    assert added_weights(load_config("configs/toy.py")) == 849_536 + 3_356
