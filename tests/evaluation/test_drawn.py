"""Ways to draw with the same weights: which weights each takes, and what is compared."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.evaluation.drawn import command
from moa_jax.evaluation.drawn.ways import COARSE, WAYS, Way, compare, redrawn
from moa_jax.evaluation.statistics import Estimate
from moa_jax.evaluation.toy.study import Study, run_key
from moa_jax.method.variant import resolve
from moa_jax.method.weights import WEIGHTS_NAME, read_moa_card
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.sampling.settings import Settings, Strength
from moa_jax.toyworld import WEIGHTS
from tests.evaluation.made_up import PROTOCOL, TRIALS, numbers, renders

MOA = WEIGHTS / "moa"
CONTRAST = "moa_jax.mixtures.guidance:SelfContrast(beta=0.5)"


class FakeStudy(Study):
    """Draws every way in its own shade, and reads the person from it."""

    protocol, trials, key = PROTOCOL, TRIALS, "this study"

    def __init__(self, base, runs, **_):
        self.runs, self.asked = runs, []

    def renders(self):
        return renders(0.97)

    def row(self, weights, cache, on_batch, **settings):
        self.asked.append((weights, cache.name, settings))
        return numbers(0.9)

    def pictures(self, cache):
        shade = 10 * [way.name for way in WAYS].index(cache.name)
        return np.full((len(TRIALS), 64, 64, 3), shade, np.uint8)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr("moa_jax.evaluation.drawn.ways.change", lambda *_: Estimate(0.1, 0.0, 0.2))
    made = FakeStudy("base", tmp_path)
    made.__dict__["readers"] = type("Readers", (), {"read": staticmethod(list)})
    return made


def test_another_variant_gets_the_same_weights_and_a_card_of_its_own(tmp_path):
    assert redrawn(MOA, "", tmp_path) == MOA
    assert redrawn(MOA, CONTRAST, tmp_path) == tmp_path
    card, was = read_moa_card(tmp_path), read_moa_card(MOA)
    written = (tmp_path / WEIGHTS_NAME).stat().st_mtime_ns
    redrawn(MOA, CONTRAST, tmp_path)
    assert (tmp_path / WEIGHTS_NAME).stat().st_mtime_ns == written  # so its pictures stay known
    assert card.config.method.mixture == CONTRAST
    assert dataclasses.replace(card, config=was.config) == was
    trained, other = (
        Pipeline.from_pretrained(WEIGHTS / "base", folder).params for folder in (MOA, tmp_path)
    )
    same = [
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (trained, other)), strict=True)
    ]
    assert all(same)


def test_every_way_names_a_variant_and_settings_that_exist():
    assert WAYS[0] == Way("as-trained", "MoA as trained")
    assert len({way.name for way in WAYS}) == len(WAYS)
    for way in WAYS[1:]:
        assert bool(way.mixture) != bool(way.settings), way.name
        resolve(way.mixture or "moa")
        Settings(**way.settings)
    blocks = [f"{name}.attentions.0" for name in ("down_blocks.0", *COARSE, "up_blocks.1")]
    off = next(way for way in WAYS if way.name == "off-coarse")
    dial = Settings(num_inference_steps=2, **off.settings).steering(blocks).dial
    np.testing.assert_array_equal(dial, [[1, 0, 0, 0, 1]] * 2)
    last = next(way for way in WAYS if way.name == "off-last-0.33")
    dial = Settings(num_inference_steps=4, **last.settings).steering(blocks[:1]).dial
    np.testing.assert_array_equal(dial[:, 0], [1, 1, 1, 0])


def test_all_are_compared_with_the_first(study, tmp_path):
    found = compare(study, MOA, tmp_path, WAYS[:2] + WAYS[-1:])
    assert [each.title for each in found] == [way.title for way in (*WAYS[:2], WAYS[-1])]
    assert [each.changed for each in found] == [0, 10, 10 * (len(WAYS) - 1)]
    (first, contrast, coarse) = study.asked
    assert first == (MOA, "as-trained", {})
    assert contrast == (tmp_path / "contrast-0.25", "contrast-0.25", {})
    assert coarse[0] == MOA and coarse[2] == WAYS[-1].settings


def test_settings_that_are_objects_count_in_what_a_run_is_known_by():
    one, other = ({"moa_strength": (Strength(value),)} for value in (0.0, 1.0))
    assert run_key("k", None, one) == run_key("k", None, {"moa_strength": (Strength(0.0),)})
    assert run_key("k", None, one) != run_key("k", None, other)


def test_the_command_leaves_a_page_and_its_numbers(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "Study", lambda *_: study)
    paths = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert command.main([*paths, "--ways", "off-last-0.33,stronger"]) == 0
    page = (tmp_path / "out/drawn.md").read_text()
    assert "| MoA as trained | 0.00 | 100.0 | +10.0 (+0.0 to +20.0) | 90.0 |" in page
    assert "| expert off in the last 33 % of the steps |" in page and "SCMoE" not in page
    kept = json.loads((tmp_path / "out/drawn.json").read_text())
    assert [each["changed"] for each in kept] == [0, 40, 110]
    assert "all columns: " in capsys.readouterr().out


def test_an_unknown_way_is_refused(capsys):
    assert command.main(["--ways", "of-last"]) == 2
    assert "--ways of-last: the ways are as-trained, contrast-0.25" in capsys.readouterr().err


def test_lost_pictures_are_said(study, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeStudy, "pictures", lambda *_: None)
    with pytest.raises(InputError, match="as-trained' has lost its pictures: delete it"):
        compare(study, MOA, tmp_path, WAYS[:1])
