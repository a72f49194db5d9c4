"""A run on pictures of two shapes: both are compiled, it resumes, runs on two hosts, and draws."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from moa_jax.commands import sample, train
from moa_jax.training import run as training
from moa_jax.training.throughput import MEASURED
from tests import launched
from tests.data.shapes import MISFIT, RESOLUTION, SIZES, TALL, WIDE, write_shapes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two_shapes(tmp_path_factory):
    """Five wide pictures, six square ones, and one that fits no bucket."""
    return write_shapes(tmp_path_factory.mktemp("two_shapes"), (*SIZES[:11], MISFIT))


def command(model, data, output, steps, *more):
    values = {
        "model.base": model,
        "data.path": data,
        "data.resolution": RESOLUTION,
        "data.buckets": "true",
        "data.max_bad_fraction": 0.1,
        "data.augment": "true",
        "data.encoded": "none",
        "data.workers": 2,
        "method.image_encoder_layers": 1,
        "train.output": output,
        "train.steps": steps,
        "train.batch_size": 2,
        "train.checkpoint_every": 3,
        "train.log_every": 1,
        "train.sample_every": 6,
        "train.sample_steps": 2,
        "optimizer.warmup_steps": 0,
        "optimizer.schedule": "constant",
    }
    return ["configs/toy.py", *(f"{key}={value}" for key, value in values.items()), *more]


def logged(output):
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


@pytest.fixture(scope="module")
def whole(two_shapes, tiny_folder, tmp_path_factory):
    """Six steps without a break on one device, and what the run said."""
    output = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.chdir(ROOT)
        patch.setattr(training, "say", said.append)
        patch.setattr(training, "train", partial(training.train, devices=jax.devices()[:1]))
        assert train.main(command(tiny_folder, two_shapes, output, 6)) == 0
        yield SimpleNamespace(output=output, said=said)


@pytest.mark.slow
def test_a_run_compiles_for_both_shapes_first_and_says_what_is_left_out(whole):
    buckets, *compiled = whole.said
    assert buckets == (
        "11 pictures in buckets: 96x48 5, 64x64 6; left out: 1, for the reasons above"
    )
    assert [line.split(" in ")[0] for line in compiled] == [
        "compiled for 96x48 pixels",
        "compiled for 64x64 pixels",
    ]
    assert np.isfinite([value for row in logged(whole.output) for value in row.values()]).all()
    assert (whole.output / "samples" / "step_000006.png").exists()


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    whole, two_shapes, tiny_folder, tmp_path, capsys
):
    assert train.main(command(tiny_folder, two_shapes, tmp_path, 3, "data.workers=0")) == 0
    assert train.main(command(tiny_folder, two_shapes, tmp_path, 6)) == 0
    assert "resuming from step 3" in capsys.readouterr().out
    expected, resumed = (load_file(each / "moa.safetensors") for each in (whole.output, tmp_path))
    assert expected.keys() == resumed.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(values, resumed[name], err_msg=name)
    assert logged(tmp_path) == logged(whole.output)


@pytest.mark.slow
@pytest.mark.parametrize("size", [WIDE, TALL])
def test_it_draws_pictures_of_any_bucket_with_their_routing(whole, tiny_folder, tmp_path, size):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "him.png")
    options = ["--base", tiny_folder, "--moa", whole.output, "--steps", "2", "--seed", "1"]
    options += ["--prompt", "a man <|image|> reading", "--subject", tmp_path / "him.png"]
    options += ["--width", size[0], "--height", size[1], "--out", tmp_path]
    assert sample.main(list(map(str, options))) == 0
    with Image.open(tmp_path / "00001-00.png") as picture:
        assert picture.size == size
    assert (tmp_path / "00001-00-routing.png").exists()


@pytest.mark.slow  # two more processes compile
@pytest.mark.nightly
def test_on_two_hosts_the_run_is_that_of_one(whole, two_shapes, tiny_folder, tmp_path):
    words = command(tiny_folder, two_shapes, tmp_path, 6, "mesh.data=2", "--distributed")
    started = launched.start(2, tmp_path, ["train.py", *words], devices=2)
    codes, said = launched.wait(started, seconds=1200), launched.logs(tmp_path)
    assert codes == [0, 0], said
    assert "11 pictures in buckets: 96x48 5, 64x64 6; left out: 1" in said[0]
    for one, other in zip(logged(tmp_path), logged(whole.output), strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)
