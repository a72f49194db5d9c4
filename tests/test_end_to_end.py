"""The two commands as a user types them, on real photographs and a checkpoint diffusers wrote."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from moa_jax.commands import sample, train
from moa_jax.training import run as training
from moa_jax.training.throughput import MEASURED
from tests.compiling import on_one_device

ROOT = Path(__file__).parents[1]


def train_command(model, data, output, steps, *more):
    return [
        "configs/toy.py",
        f"model.base={model}",
        f"data.path={data}",
        f"train.output={output}",
        f"train.steps={steps}",
        "train.batch_size=2",
        "data.augment=true",
        "data.encoded=none",
        "method.image_encoder_layers=1",
        "optimizer.learning_rate=1e-3",
        "optimizer.warmup_steps=5",
        "train.checkpoint_every=3",
        "train.log_every=1",
        "train.sample_every=3",
        "train.sample_steps=2",
        "optimizer.schedule=constant",
        "optimizer.ema_decay=0.9",
        *more,
    ]


def losses(output):
    """Every logged number but the times, by step."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


@pytest.fixture(scope="module", autouse=True)
def as_on_a_laptop():
    """From the project's root, with one device."""
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    patch.setattr(training, "train", partial(training.train, devices=jax.devices()[:1]))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def whole(tiny_folder, imagefolder, tmp_path_factory):
    """Six steps without a break."""
    output = tmp_path_factory.mktemp("whole")
    assert train.main(train_command(tiny_folder, imagefolder, output, 6)) == 0
    return output


@pytest.mark.slow
def test_training_starts_from_earlier_weights(whole, tiny_folder, imagefolder, tmp_path):
    """Those of the image encoder stay and are exported again, where it does not learn any more."""
    start = ("optimizer.learning_rate=0", "optimizer.muon_learning_rate=0", f"model.moa={whole}")
    start += ("method.image_encoder_layers=0",)
    assert train.main(train_command(tiny_folder, imagefolder, tmp_path, 1, *start)) == 0
    earlier, now = (load_file(folder / "moa.safetensors") for folder in (whole, tmp_path))
    assert earlier.keys() == now.keys()
    for name, array in earlier.items():
        np.testing.assert_allclose(now[name], array, rtol=1e-6, err_msg=name)


@pytest.mark.slow  # test_checkpoint.py resumes the step, test_loader.py the data, at every run
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    whole, tiny_folder, imagefolder, tmp_path, capsys
):
    assert train.main(train_command(tiny_folder, imagefolder, tmp_path, 3)) == 0
    assert "resuming" not in capsys.readouterr().out
    assert train.main(train_command(tiny_folder, imagefolder, tmp_path, 6)) == 0
    assert "resuming from step 3" in capsys.readouterr().out
    expected, resumed = (load_file(folder / "moa.safetensors") for folder in (whole, tmp_path))
    assert expected.keys() == resumed.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(values, resumed[name], err_msg=name)
    assert losses(tmp_path) == losses(whole)
    assert [row["step"] for row in losses(whole)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_run_leaves_what_a_user_looks_for(whole):
    card = json.loads((whole / "moa.json").read_text())
    assert card["step"] == 6
    assert {path.name for path in (whole / "samples").iterdir()} == {
        "step_000003.png",
        "step_000006.png",
    }
    assert any((whole / "tensorboard").iterdir())
    with Image.open(whole / "samples" / "step_000006.png") as preview:
        assert np.asarray(preview).std() > 10
    trained = load_file(whole / "moa.safetensors")
    kinds = {"personalized", "router", "prompt", "image_encoder"}
    found = {kind for name in trained for kind in kinds if kind in name.split(".")}
    assert found == kinds


@pytest.mark.slow
def test_training_on_the_ffhq_layout_and_sampling_from_it(tiny_folder, ffhq, tmp_path, capsys):
    trained = tmp_path / "run"
    more = ("data.layout=ffhq", "data.split=train")
    assert train.main(train_command(tiny_folder, ffhq, trained, 3, *more)) == 0
    assert np.isfinite([value for row in losses(trained) for value in row.values()]).all()
    portraits = sorted(ffhq.glob("*/*.jpg"))[:2]
    command = ["--base", str(tiny_folder), "--moa", str(trained), "--seed", "11"]
    command += ["--prompt", "a man <|image|> and a woman <|image|> reading in the snow"]
    command += ["--subject", str(portraits[0]), "--subject", str(portraits[1])]
    command += ["--num-images", "2", "--steps", "3", "--height", "48", "--width", "64"]
    out = tmp_path / "out"
    assert sample.main([*command, "--out", str(out)]) == 0
    assert "wrote 2 picture(s) of 64x48 pixels to" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "00011.json",
        "00011-grid.png",
        "00011-00.png",
        "00011-01.png",
        "00011-00-routing.png",
        "00011-01-routing.png",
    }
    with Image.open(out / "00011-00.png") as picture:
        assert picture.size == (64, 48)
    record = json.loads((out / "00011.json").read_text())
    assert (record["height"], record["width"], record["dtype"]) == (48, 64, "float32")


@pytest.mark.slow
def test_both_commands_run_without_torch(tiny_folder, imagefolder, tmp_path):
    script = """
import json, sys
sys.modules["torch"] = None  # importing it raises ImportError
from moa_jax.commands import sample, train
commands = json.loads(sys.argv[1])
sys.exit(train.main(commands[0]) or sample.main(commands[1]))
"""
    model, run = str(tiny_folder), str(tmp_path / "run")
    picture = str(imagefolder / "astronaut.png")
    commands = [
        train_command(model, imagefolder, run, 2, "train.sample_every=none"),
        ["--base", model, "--moa", run, "--prompt", "a woman <|image|>", "--subject", picture]
        + ["--num-images", "1", "--steps", "2", "--out", str(tmp_path / "out")],
    ]
    arguments = [sys.executable, "-c", script, json.dumps(commands)]
    done = subprocess.run(
        arguments, cwd=ROOT, env=on_one_device(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "00000-00.png").is_file()


@pytest.mark.slow
def test_the_data_command_finds_nothing_wrong_with_real_photographs(imagefolder, tiny_folder):
    command = [sys.executable, "-m", "moa_jax.data", "check", imagefolder, "--base", tiny_folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
