"""The pretraining: every stage runs, resumes bit for bit, and leaves what the next one needs."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moa_jax.backbone.tokenizer import load_tokenizer
from moa_jax.config import MeshConfig, override
from moa_jax.data.captions import encode_caption
from moa_jax.errors import InputError
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld.pretraining import stages
from moa_jax.toyworld.pretraining.__main__ import main
from moa_jax.toyworld.pretraining.recipe import Recipe
from moa_jax.toyworld.readers.reading import Readers
from moa_jax.toyworld.world import arrays
from moa_jax.toyworld.world.arrays import RowBatches, of_groups, of_scenes, open_scenes
from moa_jax.toyworld.world.labels import label
from moa_jax.toyworld.world.scenes import SIZE, render, training_scene
from moa_jax.training.mesh import make_mesh
from moa_jax.training.resident import resident

TINY = """
    scenes.count=32 scenes.held_out=32 scenes.workers=1
    networks.vae_width=8 networks.unet_width=8 networks.unet_inner_width=16 networks.unet_heads=1
    networks.caption_length=48
    networks.text_width=8 networks.text_layers=1 networks.text_heads=1
    networks.vision_width=8 networks.vision_layers=1 networks.vision_heads=1 networks.projection=8
    unet.sample_steps=2 vae.crop_steps=1 vae.crop_size=64 vae.crops=1
""".split()
STAGE = "{0}.steps={1} {0}.batch_size=8 {0}.warmup_steps=1 {0}.sample_every=2 {0}.log_every=1"


def recipe(steps=3, checkpoint_every=2):
    values = [
        value
        for stage in ("vae", "clip", "looks", "unet")
        for value in f"{STAGE} {{0}}.checkpoint_every={checkpoint_every}".format(
            stage, steps
        ).split()
    ]
    return override(Recipe(), [*TINY, *values])


def pretrain(*arguments):
    """As on a laptop: programs for the eight devices of the tests take longer to compile."""
    stages.pretrain(*arguments, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A pretraining of three steps a stage."""
    output = tmp_path_factory.mktemp("pretraining")
    pretrain(output, recipe(), ["scenes", "vae", "clip", "looks", "latents", "unet", "model"])
    return output


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.slow
def test_the_folder_draws(output):
    pipeline = Pipeline.from_pretrained(output / "model")
    assert pipeline.schedule.prediction_type == "v_prediction"
    assert pipeline.base.tokenizer.model_max_length == 48
    assert pipeline.base.vae.module.config.scaling_factor != 1.0
    assert pipeline.base.image_encoder is not None
    (image,) = pipeline("a man on the beach", num_inference_steps=2).images
    assert image.size == (SIZE, SIZE)


@pytest.mark.slow
def test_scenes_on_disk_are_those_of_the_stream(output):
    found, tokenizer = open_scenes(output / "scenes"), load_tokenizer(output / "tokenizer")
    for row in (0, 5, 31):
        scene = training_scene(0, row)
        picture, masks = render(scene, SIZE)
        for name, caption in (("input_ids", scene.caption), ("described_ids", scene.description)):
            expected = encode_caption(tokenizer, caption)
            assert not expected.truncated
            np.testing.assert_array_equal(found[name][row], expected.input_ids)
        for name, numbers in label(scene).items():
            np.testing.assert_array_equal(found[name][row], numbers)
        np.testing.assert_array_equal(found["pictures"][row], picture)
        np.testing.assert_array_equal(found["masks"][row, : len(masks)], masks)
        assert not found["masks"][row, len(masks) :].any()


@pytest.mark.slow
def test_latents_have_unit_variance(output):
    mean, deviation = np.split(open_scenes(output / "scenes")["latents"].astype(np.float32), 2, -1)
    np.testing.assert_allclose(np.var(mean) + np.mean(deviation**2), 1.0, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "clip", "looks", "unet"])
def test_a_stage_resumes_bit_for_bit(output, tmp_path, stage):
    """Taken back to its checkpoint of step 2, a stage ends with the very same weights."""
    for name in {"scenes", "held_out", "vae", "clip", "looks"} - {stage}:
        (tmp_path / name).symlink_to(output / name)
    shutil.copytree(output / stage, tmp_path / stage)
    shutil.rmtree(tmp_path / stage / "networks")
    shutil.rmtree(tmp_path / stage / "checkpoints/3")
    pretrain(tmp_path, recipe(), [stage])
    assert weights(tmp_path / stage / "networks") == weights(output / stage / "networks")
    lines = (tmp_path / stage / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if "loss/total" in line]
    assert steps == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("vae", marks=pytest.mark.nightly),
        "clip",
        "looks",
        pytest.param("unet", marks=pytest.mark.nightly),
    ],
)
def test_a_stage_in_bfloat16_learns_nearly_the_same(output, tmp_path, stage):
    for name in {"scenes", "held_out", "vae", "clip", "looks"} - {stage}:
        (tmp_path / name).symlink_to(output / name)
    pretrain(tmp_path, override(recipe(), [f"{stage}.dtype=bfloat16"]), [stage])
    halved, exact = (losses(folder / stage) for folder in (tmp_path, output))
    assert halved != exact
    np.testing.assert_allclose(halved, exact, rtol=0.05)


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss/total"] for line in lines if "loss/total" in line]


def test_on_devices_batches_are_those_of_the_host():
    """What a stage reads on a GPU, where its arrays are copied to."""
    random = np.random.default_rng(0)
    arrays = {
        "pictures": random.integers(0, 256, (64, 4, 4, 3), np.uint8),
        "masks": random.random((64, 2, 4, 4)) < 0.5,
        "colors": random.random((64, 2, 5, 3), np.float32),
        "portraits": random.integers(0, 256, (16, 2, 4, 4, 3), np.uint8),
    }
    mesh = make_mesh(MeshConfig(), jax.devices())
    rows = np.array([15, 0, 3, 4, 7, 9, 10, 2])
    scenes = {name: array for name, array in arrays.items() if name != "portraits"}
    for read, given in ((of_groups, arrays), (of_scenes, scenes)):
        found, expected = resident(given, read, mesh)(rows), read(given, rows)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            assert len(found[name].addressable_shards[0].data) == 1
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.slow
def test_a_stage_that_is_done_is_left_alone(output, capsys):
    before = weights(output)
    pretrain(output, recipe(), ["scenes", "vae", "clip", "looks", "latents", "unet"])
    assert weights(output) == before
    assert "step 3/3" not in capsys.readouterr().out


def test_a_stage_without_what_it_needs_says_which(tmp_path, capsys):
    assert main([str(tmp_path), "--stages", "vae", *TINY]) == 2
    assert "run the stage 'scenes' first" in capsys.readouterr().err
    assert main([str(tmp_path), "--stages", "vea"]) == 2
    assert "unknown vea" in capsys.readouterr().err
    assert main([str(tmp_path), "vae.step=3"]) == 2
    assert "vae.steps" in capsys.readouterr().err


@pytest.mark.slow
def test_other_scenes_are_not_taken_for_the_recipes(output):
    other = override(recipe(), ["scenes.count=64"])
    with pytest.raises(InputError, match="remove it to render anew"):
        pretrain(output, other, ["scenes"])


@pytest.mark.slow
def test_scenes_of_an_earlier_world_are_not_taken_for_todays(output, monkeypatch):
    def darker(scene, size):
        picture, masks = render(scene, size)
        return picture // 2, masks

    monkeypatch.setattr(arrays, "render", darker)
    with pytest.raises(InputError, match="remove it to render anew"):
        pretrain(output, recipe(), ["scenes"])


@pytest.mark.slow
def test_the_readers_are_trained_on_the_same_scenes(output, tmp_path):
    for name in ("scenes", "held_out"):
        (tmp_path / name).symlink_to(output / name)
    steps = STAGE.format("readers", 2).split()
    pretrain(tmp_path, override(recipe(), steps), ["readers"])
    readers = Readers.load(tmp_path / "readers.safetensors")
    (reading,) = readers.read(np.zeros((1, SIZE, SIZE, 3), "u1"))
    assert reading.mask.shape == (SIZE, SIZE)
    lines = (tmp_path / "readers/metrics.jsonl").read_text()
    assert "loss/hat_color" in lines and "accuracy/hat_color" in lines


def test_batches_visit_every_row_once_an_epoch_and_resume():
    batches = RowBatches(lambda rows: {"rows": rows}, count=10, batch_size=5, seed=0)
    epochs = [np.concatenate([next(batches)["rows"], next(batches)["rows"]]) for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0].tolist() != epochs[1].tolist()
    again = RowBatches(lambda rows: {"rows": rows}, count=10, batch_size=5, seed=0)
    again.set_state({"place": 3})
    np.testing.assert_array_equal(next(again)["rows"], epochs[1][5:])
    with pytest.raises(InputError, match="batch_size=11"):
        RowBatches(lambda rows: {"rows": rows}, count=10, batch_size=11, seed=0)


@pytest.mark.slow
def test_the_towers_fingerprint_guards_the_prior(output, tmp_path):
    """A prior's checkpoint is refused under another text tower."""
    shutil.copytree(output, tmp_path / "run")
    (file,) = (tmp_path / "run/clip/networks/text_encoder").glob("*.safetensors")
    save_file({name: array / 2 for name, array in load_file(file).items()}, file)
    with pytest.raises(InputError, match="text_encoder"):
        pretrain(tmp_path / "run", recipe(), ["unet"])
