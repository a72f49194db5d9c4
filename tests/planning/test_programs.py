"""Programs made of shapes are the ones that train.py and the pipeline run."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import pytest

from moa_jax.backbone.attention_kernels import blocked
from moa_jax.backbone.stable_diffusion import describe_stable_diffusion, load_stable_diffusion
from moa_jax.config import Config, DataConfig, MethodConfig, ModelConfig, TrainConfig
from moa_jax.data.loader import make_loader
from moa_jax.errors import InputError
from moa_jax.method.model import build
from moa_jax.planning.programs import (
    Drawing,
    sampling_programs,
    shard_bytes,
    training_program,
)
from moa_jax.sampling.settings import Settings
from moa_jax.training.feed import batch_shapes
from moa_jax.training.mesh import make_mesh


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)


@pytest.fixture(scope="module")
def described(tiny_folder):
    return describe_stable_diffusion(tiny_folder)


@pytest.fixture
def config(tiny_folder, imagefolder):
    return Config(
        model=ModelConfig(base=str(tiny_folder), dtype="float32"),
        method=MethodConfig(max_subjects=2),
        data=DataConfig(path=str(imagefolder), resolution=64, workers=0),
        train=TrainConfig(batch_size=8, steps=10),
    )


def test_a_checkpoint_is_described_without_its_weights(tiny_folder, described, tmp_path):
    loaded = load_stable_diffusion(tiny_folder)
    for name in ("unet", "vae", "text_encoder", "image_encoder"):
        one, other = getattr(described, name), getattr(loaded, name)
        assert shapes(one.params) == shapes(other.params)
        assert (repr(one.module), one.config) == (repr(other.module), other.config)
    assert described.scheduler_config == loaded.scheduler_config

    shutil.copytree(tiny_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    bare = describe_stable_diffusion(tmp_path / "bare", jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(bare.unet.params)} == {jnp.dtype("bfloat16")}
    with pytest.raises(InputError, match="safetensors"):
        load_stable_diffusion(tmp_path / "bare")


def test_all_networks_but_the_text_encoder_attend_by_the_given_function(tiny_folder):
    base = describe_stable_diffusion(tiny_folder, attend=blocked)
    networks = (base.unet.module.attention(heads=1, head_dim=1), base.vae.module)
    assert [one.attend for one in (*networks, base.image_encoder.module)] == [blocked] * 3


def test_the_model_has_the_shapes_of_the_real_one(tiny_folder, described):
    method = MethodConfig(max_subjects=2)
    base = load_stable_diffusion(tiny_folder)
    model, params = build(base, method, dtype=jnp.float32, key=jax.random.key(0))
    planned, planned_params = build(described, method, dtype=jnp.float32, key=None)
    assert shapes(planned_params) == shapes(params)
    assert repr(planned) == repr(model)


def test_a_batch_has_the_shapes_of_the_loaders(config, described):
    loader = make_loader(
        config.data,
        described.tokenizer,
        max_subjects=2,
        subject_resolution=described.image_encoder.module.config.image_size,
        batch_size=8,
        seed=0,
    )
    batch = next(loader)
    loader.close()
    assert shapes(dict(batch_shapes(config, described, (64, 64)))) == shapes(dict(batch))


def test_with_buckets_the_plan_is_of_the_largest_size(config, described):
    data = dataclasses.replace(config.data, buckets=True)
    program = training_program(dataclasses.replace(config, data=data), make_mesh(config.mesh))
    assert program.parts["batch"]["image"].shape == (8, 48, 96, 3)  # of 4,096 pixels 4,608
    assert program.parts["batch"]["masks"].shape == (8, 2, 48, 96)


def test_an_encoded_batch_has_latents_and_features_instead(config, described):
    data = dataclasses.replace(config.data, encoded="somewhere")
    planned = batch_shapes(dataclasses.replace(config, data=data), described, (64, 64))
    assert shapes(planned["latents"]) == ((8, 8, 8, 8), "float16")
    assert shapes(planned["features"]) == ((8, 2, 32), "float16")
    assert "image" not in planned and "subject_images" not in planned


def test_the_training_step_is_lowered_for_devices(config):
    mesh = make_mesh(config.mesh, jax.devices()[:2])
    program = training_program(config, mesh)
    assert set(program.parts) == {"frozen", "trained", "optimizer", "average", "batch"}
    assert shard_bytes(program.parts["trained"]) > 0
    assert shard_bytes(program.parts["average"]) == 0  # there is none
    # AdamW: two moments of each weight.
    assert shard_bytes(program.parts["optimizer"]) >= 2 * shard_bytes(program.parts["trained"])
    assert program.lower().as_text().count("sharding") > 10
    odd = dataclasses.replace(config, train=TrainConfig(batch_size=7))
    with pytest.raises(InputError, match="batch_size=7"):
        training_program(odd, mesh)


@pytest.mark.parametrize("method", [None, MethodConfig(max_subjects=2)])
def test_drawing_is_lowered_for_one_device(tiny_folder, method):
    mesh = make_mesh(Config().mesh, jax.devices()[:1])
    drawing = Drawing(str(tiny_folder), Settings(3), method, num_images=2, height=64, width=48)
    encode, step, decode = sampling_programs(drawing, mesh)
    assert [each.runs for each in (encode, step, decode)] == [1, 3, 1]
    conditions = encode.lower().out_info
    assert conditions.text.shape == (4, 77, 32)  # negative and positive
    assert (conditions.features is None) == (method is None)
    prediction, seen = step.lower().out_info
    assert prediction.shape == (2, 8, 6, 4) and prediction.dtype == jnp.float32
    assert len(seen.routing) == (0 if method is None else 8)
    pixels = decode.lower().out_info
    assert pixels.shape == (2, 64, 48, 3) and pixels.dtype == jnp.uint8
    weights = {shard_bytes(each.parts["weights"]) for each in (encode, step, decode)}
    assert len(weights) == 1
    wrong = dataclasses.replace(drawing, settings=Settings(sampler="nonsense"))
    with pytest.raises(InputError, match="sampler='nonsense'"):
        sampling_programs(wrong, mesh)
