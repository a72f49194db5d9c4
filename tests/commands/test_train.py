"""train.py as its users meet it: the command line, its messages, and a run on eight devices."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from moa_jax.commands import train
from moa_jax.data.encoded import EncodedRecords
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld.world.scenes import write_data
from moa_jax.training.throughput import MEASURED
from tests import launched

ROOT = Path(__file__).parents[2]
TOY = str(ROOT / "configs" / "toy.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_folder):
    """Overrides that put a small model and data in the place of the toy config's."""
    data = tmp_path_factory.mktemp("data")
    write_data(data, count=10, size=64)
    return [
        f"model.base={tiny_folder}",
        f"data.path={data}",
        "data.resolution=64",
        "data.workers=0",
        "data.augment=true",
        "data.encoded=none",
        "method.image_encoder_layers=1",
        "train.batch_size=8",
        "train.steps=3",
        "train.checkpoint_every=2",
        "train.log_every=1",
        "train.sample_every=3",
        "train.sample_steps=2",
        "optimizer.warmup_steps=0",
        "optimizer.schedule=constant",  # a cosine is another program for another number of steps
        "mesh.data=4",
        "mesh.fsdp=2",
    ]


def test_print_config_lists_every_value_as_an_override_would_set_it(capsys):
    assert train.main([TOY, "train.sample_every=none", "--print-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    values = dict(line.split(" = ", 1) for line in lines)
    values = {key.strip(): value for key, value in values.items()}
    assert values["train.sample_every"] == "none" and values["train.steps"] == "4800"
    assert len({line.index(" = ") for line in lines}) == 1  # aligned
    assert train.main([TOY, *(f"{k}={v}" for k, v in values.items()), "--print-config"]) == 0
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.step=1", "train.steps"),
        ("model.base=/nowhere/at/all", "/nowhere/at/all"),
        ("data.path=/nowhere/at/all", "/nowhere/at/all"),
        ("data.resolution=60", "data.resolution=60 must be a multiple of 16"),
        ("--encode", "--encode writes encoded pictures: name a folder by data.encoded"),
        ("data.resident=true", "data.resident=True keeps encoded data on the devices"),
        ("train.batch_size=12", "train.batch_size=12 must be a multiple of"),
        ("mesh.tensor=3", "does not fit 8 devices"),
        ("train.log_every=0", "train.log_every=0"),
        ("train.steps=0", "train.steps=0"),
        ("model.dtype=float16", "must be one of float32, bfloat16"),
        ("data.layout=ffhq", "image_ids.txt"),
        ("optimizer.accumulation=3", "optimizer.accumulation=3"),
        ("method.router_loss_skip=2", "4 transformer blocks to L_router: choose 0 to 1"),
        (f"train.output={__file__}", "cannot be made"),
        ("model.moa=/nowhere/at/all", "/nowhere/at/all"),
        ("model.moa=owner/none@v1", "model.moa='owner/none@v1' is not a folder here, and the"),
        ("method.image_encoder_layers=50", "method.image_encoder_layers=50"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(world, tmp_path, capsys, change, message):
    assert train.main([TOY, *world, f"train.output={tmp_path}", change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """(folder of a run on eight devices that was ended and resumed, what it said)."""
    folder, words = tmp_path_factory.mktemp("trained"), io.StringIO()
    overrides = [TOY, *world, f"train.output={folder}"]
    with contextlib.redirect_stdout(words):
        assert train.main([*overrides, "train.steps=2"]) == 0
        assert train.main(overrides) == 0
    return folder, words.getvalue()


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow  # test_sharding.py shards the step, test_end_to_end.py runs the command
def test_a_run_on_eight_devices_trains_resumes_and_its_result_draws(trained, tiny_folder):
    folder, words = trained
    assert "resuming from step 2" in words
    entries = metrics(folder)
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert all(np.isfinite(entry["loss/total"]) for entry in entries)
    assert (folder / "samples" / "step_000003.png").exists()
    assert json.loads((folder / "moa.json").read_text())["step"] == 3
    pipe = Pipeline.from_pretrained(tiny_folder, folder)
    man = Image.new("RGB", (40, 30))
    result = pipe("a man <|image|> on the beach", [man], num_inference_steps=2)
    assert result.images[0].size == (64, 64)


@pytest.mark.slow  # two commands compile
@pytest.mark.nightly  # test_resident.py keeps them for a step
def test_what_one_command_encodes_another_keeps_on_its_devices(world, tmp_path, capsys):
    encoded = tmp_path / "encoded"
    once = [f"data.encoded={encoded}", "data.augment=false", "method.image_encoder_layers=0"]
    command = [TOY, *world, *once, f"train.output={tmp_path / 'run'}"]
    assert train.main([*command, "--encode"]) == 0
    assert len(EncodedRecords(encoded)) == 10
    assert not (tmp_path / "run/moa.safetensors").exists()
    assert "the first step" not in capsys.readouterr().out
    written = (encoded / "latents.npy").stat().st_mtime_ns
    last = ["data.resident=true", "train.steps=2", "train.sample_every=2"]
    assert train.main([*command, *last]) == 0
    assert "into the devices' memory" in capsys.readouterr().out
    assert (encoded / "latents.npy").stat().st_mtime_ns == written
    assert all(np.isfinite(entry["loss/total"]) for entry in metrics(tmp_path / "run"))
    assert (tmp_path / "run/samples/step_000002.png").exists()


@pytest.mark.slow  # two more processes compile
@pytest.mark.nightly  # tests/training/test_hosts.py has hosts without the command
def test_on_two_hosts_the_command_trains_as_on_one(world, trained, tmp_path):
    command = ["train.py", TOY, *world, f"train.output={tmp_path}", "--distributed"]
    started = launched.start(2, tmp_path, command)
    codes, said = launched.wait(started, seconds=1200), launched.logs(tmp_path)
    assert codes == [0, 0], said
    assert "2 hosts of 4 devices" in said[0]
    for one, other in zip(metrics(tmp_path), metrics(trained[0]), strict=True):
        for name in one.keys() - MEASURED:
            # "swap/loss" is a small difference of two losses.
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)
    found, expected = (load_file(f / "moa.safetensors") for f in (tmp_path, trained[0]))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5, err_msg=name)
    assert (tmp_path / "samples" / "step_000003.png").exists()
    assert "step 3/3" in said[0] and "step 3/3" not in said[1]


@pytest.mark.parametrize(
    ("started", "command"),
    [("/usr/bin/moa-train", "moa-train"), ("train.py", "python train.py")],
)
def test_the_help_has_the_name_that_the_command_was_started_by(
    started, command, monkeypatch, capsys
):
    monkeypatch.setattr("sys.argv", [started])
    with pytest.raises(SystemExit):
        train.main(["--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {command.removeprefix('python ')} [-h]")
    assert f"\n  {command} toy\n" in shown and ("python " in shown) == ("python" in command)
    assert "sd15_ffhq_v6e_8, sd15_imagefolder, toy." in " ".join(shown.split())


@pytest.mark.parametrize("options", [["--help"], ["toy", "--print-config"], ["toys"]])
def test_what_needs_no_network_is_answered_without_jax(options):
    code = f"""
import sys
sys.modules["jax"] = None  # makes every `import jax` fail
from moa_jax.commands.train import main
sys.exit(main({options}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (2 if "toys" in options else 0), done.stderr
    assert "jax" not in done.stderr.replace("moa_jax", "")


def test_the_command_shows_no_traceback():
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "train.py", "configs/nothing.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "configs/toy.py" in run.stderr
