"""The whole of a study on a random checkpoint: what is drawn from what, and nothing twice."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from moa_jax.errors import InputError
from moa_jax.evaluation.toy import study as module
from moa_jax.evaluation.toy.drawing import draw, through_vae
from moa_jax.evaluation.toy.study import Study
from moa_jax.method.weights import read_moa_card, save_moa
from moa_jax.sampling.pipeline import Pipeline
from tests.evaluation.conftest import PROTOCOL


@pytest.fixture(scope="module")
def numbers(made):
    study, moa = made.study, made.runs / "moa-0"
    return {"prior": study.prior(), "moa": study.row(moa, moa), "renders": study.renders()}


@pytest.mark.slow
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


@pytest.mark.slow
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
    monkeypatch.setattr(module, "draw", lambda *_, **__: pytest.fail("drew again"))
    moa = made.runs / "moa-0"
    fresh = Study(made.base, made.runs, PROTOCOL, made.readers)
    assert fresh.row(moa, moa) == numbers["moa"]
    other = Study(made.base, made.runs, dataclasses.replace(PROTOCOL, steps=3), made.readers)
    with pytest.raises(pytest.fail.Exception, match="drew again"):
        other.row(moa, moa)


def test_other_weights_are_drawn_anew(made, numbers, monkeypatch):
    monkeypatch.setattr(module, "draw", lambda *_, **__: pytest.fail("drew again"))
    moa = made.runs / "moa-0"
    card, arrays = read_moa_card(moa), load_file(moa / "moa.safetensors")
    save_moa(moa, arrays, dataclasses.replace(card, step=2))
    with pytest.raises(pytest.fail.Exception, match="drew again"):
        Study(made.base, made.runs, PROTOCOL, made.readers).row(moa, moa)
    save_moa(moa, arrays, card)


def test_other_settings_are_drawn_anew(made, numbers, monkeypatch):
    monkeypatch.setattr(module, "draw", lambda *_, **settings: pytest.fail(f"drew {settings}"))
    moa = made.runs / "moa-0"
    with pytest.raises(pytest.fail.Exception, match="drew {'capacity': 0.5}"):
        Study(made.base, made.runs, PROTOCOL, made.readers).row(moa, moa, capacity=0.5)


def test_weights_that_are_not_there_are_named(made, numbers, tmp_path):
    with pytest.raises(InputError, match="nowhere': there is no such folder"):
        made.study.row(tmp_path / "nowhere", tmp_path)


def test_the_vae_gives_back_pictures_of_the_same_size(made):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    through = through_vae(made.study.base, pictures)
    assert through.shape == pictures.shape and through.dtype == np.uint8
    one = through_vae(made.study.base, pictures[1:2])
    assert np.abs(one.astype(int) - through[1:2].astype(int)).max() <= 1
