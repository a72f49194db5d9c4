"""The page of the mixture lab: read from docstrings, counted from shapes, on record as written."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from benchmarks import lab
from benchmarks.models import write_configs
from moa_jax.backbone.stable_diffusion import describe_stable_diffusion
from moa_jax.mixtures import System, Tool

DOCS = Path(__file__).parents[2] / "docs"
PACKED = Tool("Pack", "On Packing", "moa_jax.mixtures.bits:compress", "tests/p.py::test_pack")
MADE_UP = System("Rank", "On Ranks", "examples.lora_expert:Lora(rank=2)", "tests/t.py::test_it")


@pytest.fixture
def catalogue(monkeypatch):
    monkeypatch.setattr(lab, "CATALOGUE", {"Low rank": (MADE_UP,)})
    monkeypatch.setattr(lab, "BESIDE", {"Packing": (PACKED,), "Nothing yet": ()})
    text = """Add a little.

    Equation: y = Wx | BAx,
        summed
    Source: LoRA, as remembered.
    Left out: nothing.

    Attributes:
        rank: of it.
    """
    monkeypatch.setattr(type(lab.resolve(MADE_UP.variant)), "__doc__", text)


def test_a_docstring_is_read_line_by_line(catalogue):
    assert lab.docstring(type(lab.resolve(MADE_UP.variant))) == {
        "idea": "Add a little.",
        "Equation": "y = Wx \\| BAx, summed",
        "Source": "LoRA, as remembered.",
        "Left out": "nothing.",
    }


def test_the_table_stands_between_the_marks_and_counts_once(catalogue, tmp_path, monkeypatch):
    counts = {"moa": {"added": 8e6, "flops": 40.0}, MADE_UP.variant: {"added": 2e6, "flops": 30.0}}
    asked = []
    monkeypatch.setattr(lab, "count", lambda base, name: asked.append(name) or counts[name])
    page = tmp_path / "mixtures.md"
    page.write_text(f"before\n{lab.BEGIN}\nwhat stood there\n{lab.END}\nafter\n")
    lab.make(tmp_path)
    lab.make(tmp_path)
    assert asked == ["moa", MADE_UP.variant]
    text = page.read_text()
    assert (
        text.startswith("before\n")
        and text.endswith("\nafter\n")
        and "what stood there" not in text
    )
    assert "| Rank<br>*On Ranks* | Add a little. | y = Wx \\| BAx, summed | 2.00 | 0.750 |" in text
    assert "- **Rank**: LoRA, as remembered. Left out: nothing." in text
    assert "adds 8.00 M weights" in text
    assert "### Packing\n\n| system | idea | equation | file, and the test |" in text
    assert "| Pack<br>*On Packing* | Round each layer's expert" in text
    assert "| `moa_jax.mixtures.bits:compress`<br>`p.py::test_pack` |" in text
    assert "- **Pack**: D2MoE" in text and "Nothing yet" not in text
    lab.make(tmp_path, again=True)
    assert asked == ["moa", MADE_UP.variant] * 2


@pytest.mark.slow
def test_what_is_added_is_the_priors_attention_once_more_and_the_routers(tmp_path):
    write_configs(tmp_path, "tiny")
    base = describe_stable_diffusion(str(tmp_path), jnp.float32)
    attention = {
        p: x for p, x in flatten_dict(base.unet.params).items() if {"attn1", "attn2"} & {*p}
    }
    outputs = [x.shape[-1] for p, x in attention.items() if p[-2:] == ("to_out.0", "kernel")]
    expected = sum(x.size for x in attention.values()) + sum(2 * (width + 1) for width in outputs)
    assert lab.count(base, "moa")["added"] == expected


def test_the_page_on_record_is_what_the_command_writes():
    counts = json.loads((DOCS / "mixtures.json").read_text())
    page = (DOCS / "mixtures.md").read_text()
    assert f"{lab.BEGIN}\n{lab.tables(counts)}\n{lab.END}" in page
