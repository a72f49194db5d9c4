"""The CLIP towers equal transformers', and refuse what they do not implement."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.attention_kernels import flash, xla
from moa_jax.backbone.clip import (
    TextConfig,
    TextEncoder,
    VisionConfig,
    VisionEncoder,
    normalize_pixels,
)
from moa_jax.errors import InputError
from tests.backbone import full_size_configs
from tests.backbone.parity import (
    apply,
    checkpoint_shapes,
    params_of,
    randomize,
    relative_error,
    torch_shapes,
)

TEXT = {
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 11,
    "bos_token_id": 95,
    "eos_token_id": 96,
}
VISION = {
    "image_size": 20,
    "patch_size": 5,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "projection_dim": 7,
}
VARIATIONS = {
    "quick_gelu": {},
    "gelu": {"hidden_act": "gelu", "num_hidden_layers": 3},
    "single head, other epsilon": {"num_attention_heads": 1, "layer_norm_eps": 1e-3},
}
varied = pytest.mark.parametrize("variation", VARIATIONS.values(), ids=VARIATIONS.keys())


def text_pair(config):
    transformers = pytest.importorskip("torch") and pytest.importorskip("transformers")
    theirs = randomize(transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)))
    ours = TextEncoder(TextConfig.from_dict(theirs.config.to_dict()))
    return ours, params_of(ours, theirs, "text_model."), theirs


@varied
@pytest.mark.parametrize("length", [11, 5])
def test_text_is_transformers(variation, length):
    torch = pytest.importorskip("torch")
    ours, params, theirs = text_pair({**TEXT, **variation})
    ids = np.random.default_rng(0).integers(0, 97, (3, length))
    hidden = apply(ours, params, ids.astype(np.int32))
    reference = theirs(torch.from_numpy(ids)).last_hidden_state
    assert relative_error(hidden, reference) <= 1e-5


def test_text_is_causal():
    ours, params, _ = text_pair(TEXT)
    ids = np.random.default_rng(0).integers(0, 97, (1, 11)).astype(np.int32)
    changed = ids.copy()
    changed[0, 6] = (ids[0, 6] + 1) % 97
    before, after = (apply(ours, params, each) for each in (ids, changed))
    same = np.all(np.asarray(before) == np.asarray(after), axis=-1)[0]
    assert same.tolist() == [True] * 6 + [False] * 5


@pytest.mark.parametrize("attend", [xla, partial(flash, interpret=True)], ids=["xla", "flash"])
@varied
def test_vision_is_transformers(variation, attend):
    torch = pytest.importorskip("torch")
    import transformers

    config = transformers.CLIPVisionConfig(**{**VISION, **variation})
    theirs = randomize(transformers.CLIPVisionModelWithProjection(config))
    ours = VisionEncoder(VisionConfig.from_dict(config.to_dict()), attend=attend)
    pixels = np.random.default_rng(0).normal(size=(3, 20, 20, 3)).astype(np.float32)
    features = apply(ours, params_of(ours, theirs), pixels)
    reference = theirs(torch.from_numpy(pixels).movedim(-1, 1)).image_embeds
    assert relative_error(features, reference) <= 1e-5


def test_every_layer_of_the_vision_tower_attends_by_the_given_function():
    calls = []

    def spy(query, key, value):
        calls.append(query.shape)
        return xla(query, key, value)

    config = VisionConfig(20, 5, 8, 24, 40, num_hidden_layers=2, num_attention_heads=3)
    tower = VisionEncoder(config, attend=spy)
    jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((4, 20, 20, 3)))
    assert calls == [(4, 17, 3, 8)] * 2


@pytest.mark.parametrize("config", ["TEXT_SD15", "TEXT_SD21"])
def test_every_key_and_shape_of_the_full_size_text(config):
    torch = pytest.importorskip("torch")
    import transformers

    values = getattr(full_size_configs, config)
    with torch.device("meta"):
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**values))
    theirs = torch_shapes(model, "text_model.")
    assert checkpoint_shapes(TextEncoder(TextConfig.from_dict(values))) == theirs
    count = {"TEXT_SD15": 123_060_480, "TEXT_SD21": 340_387_840}[config]
    assert sum(np.prod(shape) for shape in theirs.values()) == count


def test_every_key_and_shape_of_the_full_size_vision():
    torch = pytest.importorskip("torch")
    import transformers

    values = full_size_configs.VISION_CLIP_L
    with torch.device("meta"):
        config = transformers.CLIPVisionConfig(**values)
        theirs = torch_shapes(transformers.CLIPVisionModelWithProjection(config))
    assert checkpoint_shapes(VisionEncoder(VisionConfig.from_dict(values))) == theirs
    assert sum(np.prod(shape) for shape in theirs.values()) == 303_966_208


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_pixels_are_normalised_as_transformers_does(kind):
    transformers = pytest.importorskip("transformers")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3)).astype(np.uint8)
    processor = transformers.CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    reference = np.stack(processor(list(pixels))["pixel_values"]).transpose(0, 2, 3, 1)
    assert relative_error(normalize_pixels(jnp.asarray(pixels.astype(kind))), reference) < 1e-6
    assert normalize_pixels(pixels).dtype == jnp.float32


@pytest.mark.parametrize(
    ("kind", "key", "value", "words"),
    [
        (TextConfig, "hidden_act", "relu", ("hidden_act='relu'", "'quick_gelu'", "'gelu'")),
        (TextConfig, "model_type", "t5", ("model_type='t5'", "'clip_text_model'")),
        (TextConfig, "num_attention_heads", 5, ("num_attention_heads=5", "hidden_size=24")),
        (VisionConfig, "model_type", "siglip", ("siglip", "'clip_vision_model'")),
        (VisionConfig, "image_size", [20, 30], ("image_size=[20, 30]", "an integer")),
        (VisionConfig, "num_channels", 1, ("num_channels=1", "3")),
    ],
)
def test_an_unsupported_value_is_named(kind, key, value, words):
    base = TEXT if kind is TextConfig else VISION
    with pytest.raises(InputError) as caught:
        kind.from_dict({**base, key: value})
    assert all(word in str(caught.value) for word in words)


def test_settings_of_text_generation_are_passed_over():
    values = {**TEXT, "max_length": 20, "top_k": 50, "num_beams": 1, "return_dict": True}
    assert TextConfig.from_dict(values) == TextConfig.from_dict(TEXT)
