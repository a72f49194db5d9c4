"""Every system of the lab keeps what a variant must keep, and says what it is."""

import ast
import re
from pathlib import Path

import pytest

from moa_jax.extension import find
from moa_jax.method.variant import resolve
from moa_jax.mixtures import BESIDE, CATALOGUE
from moa_jax.testing import check_variant

ROOT = Path(__file__).parents[2]
SYSTEMS = [system for family in CATALOGUE.values() for system in family]
# Tried with every change: an expert of another kind, one in some blocks alone, another prompt.
# The others are tried by `make nightly`.
OFTEN = ("LoRA", "PR-MoE", "PerSubject")
TRIED = [
    pytest.param(each, id=each.short, marks=() if each.short in OFTEN else pytest.mark.nightly)
    for each in SYSTEMS
]
TOOLS = [tool for group in BESIDE.values() for tool in group]
all_by_name = pytest.mark.parametrize("system", SYSTEMS + TOOLS, ids=lambda system: system.short)


@pytest.mark.slow
@pytest.mark.parametrize("system", TRIED)
def test_a_system_is_a_variant(system):
    check_variant(resolve(system.variant))


@all_by_name
def test_a_system_says_its_idea_and_its_source(system):
    is_tool = system in TOOLS
    said = (find(system.code, "BESIDE") if is_tool else type(resolve(system.variant))).__doc__ or ""
    for begins in ("Equation:", "Source:", "Left out:"):
        assert re.search(rf"^ *{begins} \S", said, re.MULTILINE), begins


@all_by_name
def test_the_property_of_a_system_has_its_test(system):
    file, _, function = system.test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
