"""A tiny random FastComposer, its file, and what the import makes of it."""

import pytest

from moa_jax import Pipeline
from moa_jax.evaluation.fastcomposer.command import main
from tests.evaluation.fastcomposer.oracle import FastComposer


@pytest.fixture(scope="session")
def oracle(tiny_folder):
    pytest.importorskip("torch")
    return FastComposer.made(tiny_folder)


@pytest.fixture(scope="session")
def checkpoint(oracle, tmp_path_factory):
    file = tmp_path_factory.mktemp("released") / "pytorch_model.bin"
    oracle.torch.save(oracle.state(), file)
    return file


@pytest.fixture(scope="session")
def imported(checkpoint, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "fastcomposer"
    assert main([str(checkpoint), str(folder), "--base", str(tiny_folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def composer(imported):
    return Pipeline.from_pretrained(imported / "base", imported)
