"""What sparse routing changes: drawn once, measured against the whole expert."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from moa_jax.evaluation.sparse import report, rungs
from moa_jax.evaluation.statistics import Estimate
from moa_jax.evaluation.toy import study as study_module
from moa_jax.evaluation.toy.drawing import draw
from moa_jax.evaluation.toy.protocol import Trial
from moa_jax.toyworld.readers.reading import ATTRIBUTES, PersonReading, Reading
from tests.evaluation.conftest import PROTOCOL
from tests.evaluation.made_up import TRIALS

RUNGS = [(1.0, 0.0), (0.3, 0.0), (1.0, 1.0)]


@pytest.fixture(scope="module")
def climbed(made):
    return rungs.climb(made.study, made.runs / "moa-0", made.runs / "sparse", RUNGS)


@pytest.mark.slow
def test_a_rung_says_how_much_of_the_expert_was_computed(climbed, made):
    whole, some, nothing = climbed
    assert (whole.pixels, whole.layers) == (1.0, 1.0)
    assert (nothing.pixels, nothing.layers) == (0.0, 0.0)
    pipeline = made.study.pipeline(made.runs / "moa-0")
    maps = rungs.draw_batch(pipeline, made.study.trials[:2], PROTOCOL).routing.values()
    sizes = [layer[0, 0].size for layer in maps]
    expected = sum(math.ceil(0.3 * size) for size in sizes) / sum(sizes)
    assert (some.pixels, some.layers) == (pytest.approx(expected), 1.0)


def test_what_changed_is_measured_in_grey_levels_from_the_whole_expert(climbed, made):
    """Without the expert the pictures are those of the dial at 0."""
    whole, some, nothing = climbed
    assert whole.changed == 0.0 and whole.identity == Estimate(0.0, 0.0, 0.0)
    pipeline = made.study.pipeline(made.runs / "moa-0")
    off = draw(pipeline, made.study.trials, PROTOCOL, moa_strength=0.0)
    dense = draw(pipeline, made.study.trials, PROTOCOL)
    expected = np.abs(off.astype(float) - dense).mean()
    assert nothing.changed == pytest.approx(expected, abs=0.05)
    assert some.changed > 1.0


def test_what_is_drawn_is_kept_and_the_report_tells_it(climbed, made, tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "draw", lambda *_, **__: pytest.fail("drew again"))
    again = rungs.climb(made.study, made.runs / "moa-0", made.runs / "sparse", RUNGS)
    lines = [report.line(rung, 0.4, 0.9) for rung in again]
    assert len({len(line) for line in lines} | {len(report.HEADS)}) == 1
    report.write(tmp_path, again, lines)
    kept = json.loads((tmp_path / "sparse.json").read_text())
    assert [(rung["capacity"], rung["skip_below"]) for rung in kept] == RUNGS
    assert "| 0.3 | 0 | " in (tmp_path / "sparse.md").read_text()
    assert (tmp_path / "sparse.png").stat().st_size > 5_000


def test_people_count_once_however_often_they_are_drawn():
    """Two people: one loses half of the attributes in one of two pictures, the other none."""
    first, second = (trial.people[0] for trial in TRIALS[:2])
    scene = TRIALS[0].context
    trials = [Trial((first,), scene, 0), Trial((first,), scene, 1), Trial((second,), scene, 0)]
    dense = [reading_of(trial.people[0]) for trial in trials]
    names = [name for name in ATTRIBUTES if name in rungs.agreement(None, first)]
    lost = reading_of(first, names[: len(names) // 2])
    found = rungs.change(trials, [lost, dense[1], dense[2]], dense)
    share = (len(names) // 2) / len(names)
    assert found.mean == pytest.approx(-(share / 2 + 0) / 2)


def reading_of(look, wrong=()):
    """What a reader that makes no mistake says of a person, but for some attributes."""
    attributes = {name: getattr(look, name) for name in ATTRIBUTES}
    for name in wrong:
        value = attributes[name]
        attributes[name] = "nothing" if isinstance(value, str) else _other(value)
    person = PersonReading(word=look.word, mask=np.ones((2, 2), bool), attributes=attributes)
    return Reading(context={}, people=(person,), features=np.zeros(1, np.float32))


def _other(value):
    return not value if isinstance(value, bool) else tuple((x + 128) % 256 for x in value)


def test_a_rung_without_an_interval_is_shown_without_one():
    numbers = dict.fromkeys(
        ("identity/overall", "prompt/overall", "swap/background", "pairs/binding"), 0.5
    )
    rung = rungs.Rung(0.5, 0.0, 0.5, 1.0, 2.0, Estimate(-0.01), numbers)
    shown = report.line(rung, 0.0, 1.0)
    assert shown == ["0.5", "0", "50", "100", "2.00", "50.0", "-1.0", "50.0", "0.50", "50.0"]
    full = replace(rung, identity=Estimate(-0.01, -0.03, 0.02))
    assert report.line(full, 0.0, 1.0)[6] == "-1.0 (-3.0 to +2.0)"
