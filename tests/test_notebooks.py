"""The notebooks: the pairs are the same, and each runs from an installed wheel to its end."""

import json

import jupytext
import nbformat
import numpy as np
import pytest

from tests import notebooks
from tests.notebooks import FOLDER, SMALL, execute, pictures, read, said, with_values
from tests.wheel import install_wheel

NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_every_notebook_has_a_small_budget():
    assert sorted(SMALL) == NAMES == sorted(path.stem for path in FOLDER.glob("*.md"))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_markdown_are_the_same_and_hold_no_outputs(name):
    """`make notebooks` makes them so."""
    pair = read(name), jupytext.read(FOLDER / f"{name}.md")
    kept = [
        [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in each.cells] for each in pair
    ]
    assert kept[0] == kept[1]
    assert pair[0].metadata.jupytext["formats"] == "md:myst,ipynb"
    code = [cell for cell in pair[0].cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]
    nbformat.validate(pair[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_installs_what_is_missing_and_names_no_address(name):
    """The project's public address is not decided yet: nobody may invent one."""
    first = next(cell for cell in read(name).cells if cell.cell_type == "code")
    assert first.source.startswith('SOURCE = "moa_jax"  # @param')
    assert 'find_spec("moa_jax") is None' in first.source and "%pip install -q" in first.source
    assert "github.com" not in (FOLDER / f"{name}.md").read_text()


def test_form_fields_are_filled_in_as_by_hand():
    filled = with_values(read("colab"), {"STEPS": 3, "PROMPT": "a kid"})
    lines = "\n".join(cell.source for cell in filled.cells).splitlines()
    assert 'STEPS = 3  # @param {type:"integer"}' in lines
    assert "PROMPT = 'a kid'  # @param {type:\"string\"}" in lines
    with pytest.raises(ValueError, match="0 form fields 'STEP'"):
        with_values(read("colab"), {"STEP": 3})


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    """The environment of a kernel that finds the package in an installed wheel."""
    return notebooks.environment(install_wheel(tmp_path_factory.mktemp("notebooks")), hurry=True)


@pytest.mark.slow
def test_the_first_notebook_draws_trains_and_keeps_its_pictures(variables, tmp_path):
    done = execute("colab", tmp_path, variables, SMALL["colab"])
    made = tmp_path / "moa_notebook"
    names = "prior method text two swap morph dial style edit training".split()
    assert sorted(path.stem for path in made.glob("*.png")) == sorted(names)
    assert len(pictures(done)) == len(names) + 1  # and the routing by layer and step
    assert (made / "morph.gif").is_file()
    card = json.loads((made / "run" / "moa.json").read_text())
    assert card["step"] == SMALL["colab"]["STEPS"]
    assert "v5e-1 TPU" in said(done) and str(made.resolve()) in said(done)


@pytest.mark.slow
@pytest.mark.nightly  # tests/training stops and resumes
def test_the_second_is_stopped_and_goes_on_bit_for_bit(variables, tmp_path):
    """The notebook compares the runs itself; here its comparison is done once more."""
    done = execute("kaggle_sharding", tmp_path, variables, SMALL["kaggle_sharding"])
    words = said(done)
    assert words.count("on cpu devices: data 1 x fsdp 8 x tensor 1") == 3
    assert "eight simulated devices" in words and "exit code 75" in words
    assert "resuming from step" in words
    runs = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "stopped")
    ]
    losses = [[row["loss/total"] for row in run] for run in runs]
    assert losses[0] == losses[1] and len(losses[0]) == SMALL["kaggle_sharding"]["STEPS"]
    assert np.ptp(losses[0]) > 0
    assert "memory in all" in words or "No plan here" in words


@pytest.mark.slow
@pytest.mark.nightly
def test_the_third_puts_ideas_of_ones_own_into_the_table(variables, tmp_path):
    done = execute("extend", tmp_path, variables, SMALL["extend"])
    words = said(done)
    assert "prior_at_start: fresh" in words  # of the router that is wrong on purpose
    for row in ("the prior", "a smooth router", "layers that agree", "MoA, 4,800 steps"):
        assert f"| {row} |" in words, words
    assert (
        "agreement"
        in json.loads((tmp_path / "runs/agreement/moa.json").read_text())["config"]["method"][
            "extra_loss"
        ]
    )


@pytest.mark.slow
@pytest.mark.nightly
def test_the_fourth_takes_an_equation_to_its_row(variables, tmp_path):
    words = said(execute("lab", tmp_path, variables, SMALL["lab"]))
    assert "class LoraExpert(Expert)" in words and "Equation: y = W x + scale B A x" in words
    assert "moa: 852,892 weights" in words  # counted by hand: the copies, and the routers
    for row in ("the prior", "MoA, a full copy", "LoRA, rank 3"):
        assert f"| {row} |" in words, words
