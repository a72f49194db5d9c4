"""The whole of a study on a random checkpoint: what is drawn from what, and nothing twice."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.config import Config, MethodConfig, TrainConfig
from moa_jax.errors import InputError
from moa_jax.evaluation.toy import study as module
from moa_jax.evaluation.toy.drawing import draw, through_vae
from moa_jax.evaluation.toy.protocol import Protocol
from moa_jax.evaluation.toy.study import Study
from moa_jax.method.identity import Identity
from moa_jax.method.model import build
from moa_jax.method.trained import learning_mask, partition
from moa_jax.method.weights import MoaCard, read_moa_card, save_moa
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld.readers.reading import Readers, initial_params

PROTOCOL = Protocol(identities=2, contexts=1, noises=2, pairs=2, pair_noises=1, renders=8, steps=2)
METHOD = MethodConfig(max_subjects=2, image_encoder_layers=0, initial_personalized_weight=0.6)


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """A study, its readers (untrained) and MoA weights (random experts)."""
    runs = tmp_path_factory.mktemp("runs")
    readers = runs / "readers.safetensors"
    Readers(initial_params(jax.random.key(0))).save(readers)
    base = load_stable_diffusion(tiny_folder)
    _, params = build(base, METHOD, dtype=jnp.float32, key=jax.random.key(1))
    trained, _ = partition(params, learning_mask(params, METHOD))
    random = np.random.default_rng(0)
    trained = jax.tree.map(
        lambda leaf: leaf + np.float32(0.3) * random.standard_normal(leaf.shape, np.float32),
        trained,
    )
    config = Config(method=METHOD, train=TrainConfig(steps=1))
    save_moa(runs / "moa-0", trained, MoaCard(config, Identity.of(base), 1))
    study = Study(str(tiny_folder), runs, PROTOCOL, readers)
    return SimpleNamespace(study=study, runs=runs, readers=readers, base=str(tiny_folder))


@pytest.fixture(scope="module")
def numbers(made):
    study, moa = made.study, made.runs / "moa-0"
    return {"prior": study.prior(), "moa": study.row(moa, moa), "renders": study.renders()}


def test_the_prior_sees_no_subject_and_moa_does(made, numbers):
    assert numbers["prior"]["swap/pixels"] == 0
    assert numbers["moa"]["swap/pixels"] > 0
    assert numbers["prior"]["noise/pixels"] > 0
    assert numbers["moa"]["from_prior/pixels"] > 0


def test_every_number_is_a_number(numbers):
    for found in (numbers["prior"], numbers["moa"], *numbers["renders"].values()):
        bad = [key for key, value in found.items() if not np.isfinite(value)]
        # Random people may happen to have no hat, or none but hats.
        assert not set(bad) - {f"{g}{n}" for g in ("", "identity/") for n in ("beard", "hat_color")}


def test_pictures_of_a_batch_do_not_depend_on_their_place(made, numbers):
    """The padded last batch, and trials in another order, give the same pictures."""
    moa = made.runs / "moa-0"
    pipeline = Pipeline.from_pretrained(made.base, moa)
    trials = made.study.trials
    drawn = made.study.pictures(moa)
    chosen = [len(trials) - 1, 3, 0]
    again = draw(pipeline, [trials[i] for i in chosen], PROTOCOL)
    difference = np.abs(again.astype(int) - drawn[chosen].astype(int))
    assert difference.max() <= 1  # a level, by rounding


def test_what_is_measured_is_not_drawn_again(made, numbers, monkeypatch):
    monkeypatch.setattr(module, "draw", lambda *_: pytest.fail("drew again"))
    moa = made.runs / "moa-0"
    fresh = Study(made.base, made.runs, PROTOCOL, made.readers)
    assert fresh.row(moa, moa) == numbers["moa"]
    other = Study(made.base, made.runs, dataclasses.replace(PROTOCOL, steps=3), made.readers)
    with pytest.raises(pytest.fail.Exception, match="drew again"):
        other.row(moa, moa)


def test_other_weights_are_drawn_anew(made, numbers, monkeypatch):
    monkeypatch.setattr(module, "draw", lambda *_: pytest.fail("drew again"))
    moa = made.runs / "moa-0"
    card, arrays = read_moa_card(moa), load_file(moa / "moa.safetensors")
    save_moa(moa, arrays, dataclasses.replace(card, step=2))
    with pytest.raises(pytest.fail.Exception, match="drew again"):
        Study(made.base, made.runs, PROTOCOL, made.readers).row(moa, moa)
    save_moa(moa, arrays, card)


def test_weights_that_are_not_there_are_named(made, numbers, tmp_path):
    with pytest.raises(InputError, match="nowhere': there is no such folder"):
        made.study.row(tmp_path / "nowhere", tmp_path)


def test_the_vae_gives_back_pictures_of_the_same_size(made):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    through = through_vae(made.study.base, pictures)
    assert through.shape == pictures.shape and through.dtype == np.uint8
    one = through_vae(made.study.base, pictures[1:2])
    assert np.abs(one.astype(int) - through[1:2].astype(int)).max() <= 1
