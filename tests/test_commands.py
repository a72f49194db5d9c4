"""What a user mistypes: one clear line on standard error, exit code 2, no traceback."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import pytest
from PIL import Image

import sample
import train
from moa_jax.training.mesh import make_mesh

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def as_on_a_laptop(monkeypatch):
    """From the project's root, with one device."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train, "make_mesh", partial(make_mesh, devices=jax.devices()[:1]))


def error_of(main, command, capsys):
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["configs/nothing.py"], r"configs/nothing.py.*configs/toy.py"),
        (["README.md"], r"README.md"),
        (["configs/toy.py", "optimizer.learning_rat=1"], r"nearest: optimizer.learning_rate"),
        (["configs/toy.py", "learning_rate=1"], r"nearest: optimizer.learning_rate"),
        (["configs/toy.py", "train.steps"], r"train.steps.*section.key=value"),
        (["configs/toy.py", "train.steps=many"], r"train.steps='many'.*int"),
        (["configs/toy.py", "model.dtype=float16"], r"float16.*float32, bfloat16"),
        (["configs/toy.py", "model.base=nowhere/at/all"], r"nowhere/at/all"),
        (["configs/toy.py", "mesh.tensor=3"], r"mesh.*3"),
        (["configs/toy.py", "train.batch_size=0"], r"batch_size"),
        (["configs/toy.py", "train.steps=0"], r"train.steps"),
    ],
)
def test_train_names_what_is_wrong(command, message, capsys):
    assert re.search(message, error_of(train.main, command, capsys))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.path=nowhere", r"nowhere"),
        ("data.resolution=60", r"data.resolution=60.*16"),
        ("data.layout=ffhq", r"image_ids.txt"),
        ("method.image_encoder_layers=9", r"image_encoder_layers=9"),
        ("optimizer.accumulation=3", r"accumulation"),
    ],
)
def test_train_names_what_is_wrong_with_data_and_model(
    change, message, tiny_folder, imagefolder, tmp_path, capsys
):
    command = ["configs/toy.py", f"model.base={tiny_folder}", f"data.path={imagefolder}"]
    command += [f"train.output={tmp_path}", change]
    assert re.search(message, error_of(train.main, command, capsys))


def test_train_prints_the_config(capsys):
    assert train.main(["configs/toy.py", "train.steps=12_000", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^train\.steps += 12000$", printed, re.MULTILINE)
    assert re.search(r"^model\.dtype += none$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model", "nowhere/at/all"], r"nowhere/at/all"),
        (["--moa", "nowhere"], r"nowhere/moa.json.*missing"),
        (["--prompt", "a man <|image|>"], r"no MoA weights are loaded"),
        (["--steps", "0"], r"num_inference_steps=0"),
        (["--height", "60"], r"height=60.*64"),
        (["--sampler", "dpm"], r"sampler='dpm'.*ddim"),
        (["--num-images", "0"], r"num_images=0"),
        (["--variant", "fp16"], r"fp16"),
        (["--out", "README.md/out"], r"--out 'README.md/out'"),
    ],
)
def test_sample_names_what_is_wrong(change, message, tiny_folder, tmp_path, capsys):
    command = ["--model", str(tiny_folder), "--prompt", "a man", "--out", str(tmp_path)]
    assert re.search(message, error_of(sample.main, command + change, capsys))
    assert not list(tmp_path.glob("*.png"))


def test_the_exit_code_reaches_the_shell(tmp_path):
    """In a process of its own, and a usage error of the command line too."""
    damaged = tmp_path / "model"
    damaged.mkdir()
    for command in (["--model", str(damaged), "--prompt", "a man"], ["--prompt", "a man"]):
        arguments = [sys.executable, "sample.py", *command, "--out", str(tmp_path / "out")]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "error: " in done.stderr


def test_unreadable_subjects_are_named(tiny_folder, tmp_path):
    from moa_jax.data.images import load_image
    from moa_jax.errors import InputError

    broken = tmp_path / "broken.jpg"
    Image.new("RGB", (64, 64), "red").save(broken)
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError, match=r"broken.jpg"):
        load_image(broken)
