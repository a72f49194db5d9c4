"""The command line of the page: its defaults, and what it refuses before anything is served."""

import os
import sys

import pytest

from moa_jax.page import __main__ as page
from moa_jax.sampling.options import make_parser
from moa_jax.toyworld import WEIGHTS


def test_by_default_it_is_the_toy_world_for_this_machine_alone():
    given = page._parse([])
    assert (given.host, given.share) == ("127.0.0.1", False)
    assert (given.base, given.moa) == (str(WEIGHTS / "base"), str(WEIGHTS / "moa"))
    assert (given.steps, given.sampler, given.guidance_scale) == (25, "ddim", 2.5)
    assert page._parse(["--steps", "9"]).steps == 9


def test_another_base_is_drawn_with_by_the_options_of_sample_py():
    given = vars(page._parse(["--base", "sd", "--moa", "run", "--variant", "fp16"]))
    sample = vars(make_parser("draw").parse_args(["--base", "sd", "--moa", "run"]))
    networks = "base moa variant dtype attention image_encoder allow_other_base plugin lora".split()
    assert {name: given[name] for name in networks} == {
        **{name: sample[name] for name in networks},
        "variant": "fp16",
    }
    assert (given["steps"], given["sampler"]) == (sample["steps"], sample["sampler"])


def test_moa_needs_its_base(capsys):
    with pytest.raises(SystemExit):
        page._parse(["--moa", "runs/mine"])
    assert "--moa needs the --base that it was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--base", "nowhere/at/all"], "nowhere/at/all"),
        (["--guidance-rescale", "3"], "guidance_rescale=3.0"),
        (["--plugin", "no_such_module"], "--plugin no_such_module: there is no module"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(command, message, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert page.main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert page.main([]) == 2
    assert "pip install 'moa_jax[page]'" in capsys.readouterr().err


def test_the_toy_worlds_words_are_listed():
    assert "- place: on the beach, in the snow" in page.toy_words()
