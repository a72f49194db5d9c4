"""CITATION.cff says what the package and the README say."""

import re
from pathlib import Path

import yaml

import moa_jax

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_version_and_the_readmes_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == moa_jax.__version__
    paper, readme = citation["preferred-citation"], (ROOT / "README.md").read_text()
    bibtex = dict(re.findall(r"^  (\w+) += \{(.*)\},?$", readme, re.MULTILINE))
    authors = [f"{each['family-names']}, {each['given-names']}" for each in paper["authors"]]
    assert bibtex["author"] == " and ".join(authors)
    assert (bibtex["title"], bibtex["year"]) == (paper["title"], str(paper["year"]))
    assert paper["url"].removeprefix("https://arxiv.org/abs/") in readme
