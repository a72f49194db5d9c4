"""The command line's short forms, its modes, and records that stand in for options."""

import pytest

from moa_jax import __version__
from moa_jax.errors import InputError
from moa_jax.sampling.control import Control
from moa_jax.sampling.from_options import read_settings
from moa_jax.sampling.options import MODES, parse_arguments
from moa_jax.sampling.record import write_json
from moa_jax.sampling.settings import Settings, Strength
from moa_jax.sampling.short_forms import read_control, read_lora_option, read_strength

BASIC = ["--base", "m", "--prompt", "a man"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", Strength(0.5)),
        ("up=1.5", Strength(1.5, "up")),
        ("0@0:0.3", Strength(0.0, end=0.3)),
        ("down_blocks.1=2@0.2:", Strength(2.0, "down_blocks.1", 0.2)),
    ],
)
def test_strengths(text, expected):
    assert read_strength(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s.safetensors", ("s.safetensors", 1.0, "both")),
        ("s.safetensors:0.7", ("s.safetensors", 0.7, "both")),
        ("a:b/s.safetensors:-1:prior", ("a:b/s.safetensors", -1.0, "prior")),
        ("s.safetensors:personalized", ("s.safetensors", 1.0, "personalized")),
    ],
)
def test_loras(text, expected):
    assert read_lora_option(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e.png", Control("e.png")),
        ("e.png:0.5", Control("e.png", 0.5)),
        ("c:/e.png:0.5:0:0.4", Control("c:/e.png", 0.5, 0.0, 0.4)),
    ],
)
def test_controls(text, expected):
    assert read_control(text) == expected


def test_short_forms_that_are_none_are_quoted():
    with pytest.raises(InputError, match="--moa-strength 'up:1': write .LAYERS="):
        read_strength("up:1")
    with pytest.raises(InputError, match="--control 'e.png:1:0.5'"):
        read_control("e.png:1:0.5")


def test_every_option_of_the_settings_arrives():
    options = "--steps 9 --sampler euler --karras --guidance-scale 3 --guidance-rescale 0.7"
    options += " --guidance-interval 0.2 0.8 --moa-strength 0.5 --moa-strength up=2 --delay 0.3"
    options += " --capacity 0.25 --skip-below 0.05"
    read = read_settings(parse_arguments([*BASIC, *options.split()]))
    expected = Settings(9, "euler", 3.0, 0.7, (0.2, 0.8), True, None)
    changed = {"moa_strength": [Strength(0.5), Strength(2.0, "up")], "delay": 0.3}
    changed |= {"capacity": 0.25, "skip_below": 0.05}
    assert read == Settings(**{**vars(expected), **changed})


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_its_help_with_an_example(mode, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments([mode, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"python sample.py {mode} --base" in shown
    assert "--subject" in shown


@pytest.mark.parametrize(
    ("started", "command", "name"),
    [
        ("/usr/bin/moa-sample", "moa-sample", "moa-sample"),
        ("moa-sample.exe", "moa-sample", "moa-sample"),
        ("sample.py", "python sample.py", "sample.py"),
    ],
)
def test_the_help_has_the_name_that_the_command_was_started_by(
    started, command, name, monkeypatch, capsys
):
    monkeypatch.setattr("sys.argv", [started])
    for options, beginning in (([], f"usage: {name} ["), (["morph"], f"usage: {name} morph [")):
        with pytest.raises(SystemExit):
            parse_arguments([*options, "--help"])
        assert capsys.readouterr().out.startswith(beginning)
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = capsys.readouterr().out
    assert f"\n  {command} [draw] --base" in shown and "{command}" not in shown
    assert ("python" in shown) == ("python" in command)


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (["--prompt", "a"], "--base"),
        (["morph", *BASIC], "--to"),
        (["timelapse", *BASIC], "--words"),
        (["edit", *BASIC, "--image", "x.png"], "--source-prompt"),
    ],
)
def test_what_a_mode_needs_is_asked_for(command, missing, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(command)
    assert stopped.value.code == 2
    assert f"{missing} is required" in capsys.readouterr().err


def test_a_record_stands_in_for_what_is_not_given(tmp_path):
    first = parse_arguments(
        ["morph", *BASIC, *"--to b.png --subject a.png --steps 7 --seed 3 --out x".split()]
    )
    write_json(tmp_path / "run.json", vars(first))
    again = ["--from-json", str(tmp_path / "run.json")]
    same = parse_arguments(again)
    assert {**vars(same), "from_json": None, "out": "x"} == vars(first)
    other = parse_arguments([*again, "--seed", "4", "--subject", "c.png", "--frames", "3"])
    assert (other.seed, other.subject, other.frames, other.to) == (4, ["c.png"], 3, "b.png")


def test_a_record_of_another_mode_or_none_is_refused(tmp_path, capsys):
    write_json(tmp_path / "run.json", {"mode": "draw", "prompt": "a"})
    for command, message in (
        (["morph", "--from-json", str(tmp_path / "run.json")], "was made by 'draw'"),
        (["--from-json", "nowhere.json"], "nowhere.json: no such file"),
    ):
        with pytest.raises(SystemExit):
            parse_arguments(command)
        assert message in capsys.readouterr().err


def test_an_earlier_name_is_read_with_a_note(tmp_path, capsys):
    assert parse_arguments(["--model", "m", "--prompt", "a man"]).base == "m"
    assert "note: --model is called --base now" in capsys.readouterr().err
    write_json(tmp_path / "run.json", {"model": "old", "prompt": "a man"})
    assert parse_arguments(["--from-json", str(tmp_path / "run.json")]).base == "old"


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--version"])
    assert capsys.readouterr().out == f"moa_jax {__version__}\n"


def test_records_of_earlier_versions_are_drawn_without_weights(tmp_path):
    """They were, so a record that does not say is one of plain prompts; a newer one says."""
    assert parse_arguments(BASIC).plain_prompt is False
    assert parse_arguments([*BASIC, "--plain-prompt"]).plain_prompt is True
    file = tmp_path / "run.json"
    write_json(file, {"base": "m", "prompt": "a (man:1.2)"})
    again = ["--from-json", str(file)]
    assert parse_arguments(again).plain_prompt is True
    assert parse_arguments([*again, "--no-plain-prompt"]).plain_prompt is False
    for options in ([], ["--plain-prompt"]):
        first = parse_arguments([*BASIC, *options])
        write_json(file, vars(first))
        assert parse_arguments(again).plain_prompt is first.plain_prompt
