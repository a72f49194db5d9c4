"""Words completed as a shell asks for it, by argcomplete's protocol, in a process without jax."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moa_jax.commands.completion import SAMPLE
from moa_jax.config import Config, flatten
from moa_jax.diffusion.samplers import SAMPLERS
from moa_jax.section import choices, hints_of
from moa_jax.training.mesh import PRESETS

ROOT = Path(__file__).parents[2]


def ask(folder, line, forbidden="jax"):
    """(the words that the command offers for the last one of a line, its exit code)."""
    command = "train" if "train" in line.split()[0] else "sample"
    code = f"""
import sys
sys.modules[{forbidden!r}] = None  # makes every import of it fail
from moa_jax.commands.{command} import main
sys.exit(main(["toy", "--print-config"] if {command == "train"} else ["--help"]))
"""
    protocol = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "offered"),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **protocol},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "", done.stdout
    offered = folder / "offered"
    return offered.read_text().split("\n") if offered.exists() else done.returncode


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("moa-train sd15_f", "sd15_ffhq sd15_ffhq_gpu_8 sd15_ffhq_v5e_16 sd15_ffhq_v6e_8"),
        ("moa-train mi", "mine.py "),
        ("moa-train toy --plan-presets f", "fsdp fsdp+tp"),
        ("moa-train --print-config toy mesh.pre", "mesh.preset="),
        ("moa-train toy model.dtype=bf", "model.dtype=bfloat16 "),
        ("moa-train toy mesh.preset=fsd", "mesh.preset=fsdp mesh.preset=fsdp+tp"),
        ("moa-train toy model.remat=t", "model.remat=true "),
        ("moa-train toy data.path=pic", "data.path=pictures/"),
        ("moa-train toy train.steps=", ""),
        ("moa-train toy --enc", "--encode "),
        ("moa-sample mor", "morph "),
        ("moa-sample morph --fra", "--frames "),
        ("moa-sample --frames", ""),
        ("moa-sample edit --sampler euler", "euler euler_a"),
        ("moa-sample --attention sp", "splash "),
        ("moa-sample --base pict", "pictures/"),
        ("moa-sample --subject mi", "mine.py "),
        ("moa-sample --prompt pict", ""),
        ("moa-sample --steps mi", ""),
        ("moa-sample --dtype b", "bfloat16 "),
    ],
)
def test_a_word_is_completed_without_jax(line, offered, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "mine.py").touch()
    assert ask(tmp_path, line) == (offered.split(" ") if " " in offered[:-1] else [offered])


def test_without_argcomplete_nothing_starts(tmp_path):
    assert ask(tmp_path, "moa-train toy --enc", forbidden="argcomplete") == 1


def test_what_is_offered_is_what_there_is():
    assert set(SAMPLE["sampler"]) == {*SAMPLERS, "checkpoint"}
    values = {key: choices(hints_of(type(getattr(Config(), key.split(".")[0])))[key.split(".")[1]])
              for key in flatten(Config())}  # fmt: skip
    assert values["mesh.preset"] == [*(preset for preset in PRESETS if preset), "none"]
    assert values["train.sample_every"] == ["none"] and values["train.steps"] == []
    assert values["model.base"] is None


def test_the_shell_may_ask_both_scripts_and_both_commands():
    for name in ("train", "sample"):
        for path in (ROOT / f"{name}.py", ROOT / f"moa_jax/commands/{name}.py"):
            assert "PYTHON_ARGCOMPLETE_OK" in path.read_text()[:1024]
