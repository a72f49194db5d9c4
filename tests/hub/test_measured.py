"""The table of an evaluation: from the study's files, from Markdown, and never of other weights."""

import json
import shutil
from pathlib import Path

import pytest

from moa_jax import InputError, MoAWeights
from moa_jax.evaluation.toy.study import Study
from moa_jax.hub.measured import read_table
from moa_jax.toyworld import WEIGHTS

EVALUATION = Path(__file__).parents[2] / "docs" / "evaluation"


def test_the_table_of_a_study_is_the_one_in_its_own_report():
    table = read_table(EVALUATION / "toy.json")
    report = (EVALUATION / "toy.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| MoA, λ_r = 0.1 ")]
    assert len(rows) == 1 and rows[0] in report
    assert "says nothing about photographs" in table and "binding: share of people" in table


def test_the_numbers_of_one_training_are_listed():
    file = EVALUATION / "rows" / "moa-0.json"
    numbers = json.loads(file.read_text())["numbers"]
    table = read_table(file)
    assert f"| identity % | {100 * numbers['identity/overall']:.1f} |" in table
    assert f"| background change | {numbers['swap/background']:.2f} |" in table
    assert "way to ceiling" not in table.partition("- identity")[0]


def test_markdown_is_taken_as_it_is_if_it_has_a_table(tmp_path):
    file = tmp_path / "mine.md"
    file.write_text("Faces, measured by me.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n")
    assert read_table(file) == file.read_text().strip()
    file.write_text("They are good.")
    with pytest.raises(InputError, match="has no table in it"):
        read_table(file)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"numbers": {}}', '{"rows": [{}]}', "\ud800"])
def test_what_is_no_evaluation_is_refused(tmp_path, text):
    file = tmp_path / "evaluation.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match="evaluation.json' .*give toy.json"):
        read_table(file)


def test_numbers_beside_weights_count_only_if_they_are_of_these_weights(tmp_path, monkeypatch):
    """What `Study` itself leaves beside weights, and the same beside others."""
    shutil.copytree(WEIGHTS / "moa", tmp_path / "moa")
    study = Study(str(WEIGHTS / "base"), tmp_path)
    numbers = {"identity/overall": 0.625, "prompt/overall": 0.875}
    monkeypatch.setattr("moa_jax.evaluation.toy.study.draw", lambda *_: [])
    monkeypatch.setattr(study, "measure", lambda *_, **__: numbers)
    study.row(tmp_path / "moa", tmp_path / "moa")
    table = MoAWeights(tmp_path / "moa").generate_model_card().text
    assert "| identity % | 62.5 |" in table and "| prompt % | 87.5 |" in table

    found = json.loads((tmp_path / "moa/evaluation.json").read_text())
    (tmp_path / "moa/evaluation.json").write_text(json.dumps(found | {"run": "of others"}))
    assert "| identity %" not in MoAWeights(tmp_path / "moa").generate_model_card().text
    # Given by name, the author answers for it.
    card = MoAWeights(tmp_path / "moa").generate_model_card(
        evaluation=tmp_path / "moa/evaluation.json"
    )
    assert "| identity % | 62.5 |" in card.text
