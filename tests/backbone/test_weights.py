"""Loading is strict, streams and names what does not fit; saving is its inverse."""

import json
import tracemalloc

import flax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from moa_jax.backbone.folder import read_config
from moa_jax.backbone.weights import (
    from_checkpoint,
    load_params,
    save_params,
    to_checkpoint,
)
from moa_jax.errors import InputError

TREE = {
    "conv_in": {"kernel": (3, 5, 2, 4), "bias": (4,)},
    "mid_block.attentions.0": {
        "to_q": {"kernel": (2, 3), "bias": (3,)},
        "to_out.0": {"kernel": (3, 2)},
    },
    "norm": {"scale": (600,), "bias": (600,)},
    "text_model.embeddings": {"token_embedding": {"embedding": (7, 2)}, "class_embedding": (2,)},
}
KEYS = {
    "conv_in.weight": (4, 2, 3, 5),
    "conv_in.bias": (4,),
    "mid_block.attentions.0.to_q.weight": (3, 2),
    "mid_block.attentions.0.to_q.bias": (3,),
    "mid_block.attentions.0.to_out.0.weight": (2, 3),
    "norm.weight": (600,),
    "norm.bias": (600,),
    "text_model.embeddings.token_embedding.weight": (7, 2),
    "text_model.embeddings.class_embedding": (2,),
}
DIFFUSERS = {"_class_name": "AutoencoderKL"}


def shapes(tree=TREE):
    leaf = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    return jax.tree.map(leaf, tree, is_leaf=lambda node: isinstance(node, tuple))


def tensors(seed=0):
    random = np.random.default_rng(seed)
    return {key: random.normal(size=shape).astype(np.float32) for key, shape in KEYS.items()}


def write(folder, values, name="diffusion_pytorch_model.safetensors"):
    folder.mkdir(exist_ok=True)
    save_file(values, folder / name, metadata={"format": "pt"})
    return folder


def flat(params):
    return flax.traverse_util.flatten_dict(params, sep="/")


def message(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_a_convolution_and_a_linear_layer_survive_the_change_of_layout(tmp_path):
    torch = pytest.importorskip("torch")
    values = tensors()
    params, _ = load_params(write(tmp_path, values), shapes())
    pixels = np.random.default_rng(1).normal(size=(1, 8, 9, 2)).astype(np.float32)
    conv = params["conv_in"]
    ours = jax.lax.conv_general_dilated(
        pixels, conv["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    weight = torch.from_numpy(values["conv_in.weight"])
    theirs = torch.conv2d(torch.from_numpy(pixels).movedim(-1, 1), weight).movedim(1, -1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    linear = params["mid_block.attentions.0"]["to_q"]["kernel"]
    weight = values["mid_block.attentions.0.to_q.weight"]
    np.testing.assert_array_equal(pixels @ linear, pixels @ weight.T)


def test_mapping_and_its_inverse():
    for path, leaf in flax.traverse_util.flatten_dict(shapes()).items():
        array = np.random.default_rng(0).normal(size=leaf.shape)
        key, arranged = to_checkpoint(path, array)
        assert KEYS[key] == arranged.shape
        np.testing.assert_array_equal(from_checkpoint(path, arranged), array)


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_any_precision_is_read_as_any(tmp_path, kind, dtype):
    values = {key: value.astype(kind) for key, value in tensors().items()}
    params, _ = load_params(write(tmp_path, values), shapes(), dtype)
    assert {leaf.dtype for leaf in flat(params).values()} == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(params["norm"]["scale"], values["norm.weight"].astype(dtype))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("config", [DIFFUSERS, {"model_type": "clip", "torch_dtype": "float64"}])
def test_save_is_the_inverse_of_load(tmp_path, dtype, config):
    params, fingerprint = load_params(write(tmp_path / "a", tensors()), shapes(), dtype)
    save_params(tmp_path / "b", params, config)
    again, same = load_params(tmp_path / "b", shapes(), dtype)
    for path, leaf in flat(params).items():
        np.testing.assert_array_equal(flat(again)[path], leaf)
    assert (same == fingerprint) == (dtype == jnp.float32)
    names = {file.name for file in (tmp_path / "b").iterdir()}
    stem = "diffusion_pytorch_model" if config is DIFFUSERS else "model"
    assert names == {"config.json", f"{stem}.safetensors"}
    if config is not DIFFUSERS:  # what transformers would cast to
        assert read_config(tmp_path / "b")["torch_dtype"] == jnp.dtype(dtype).name


def test_one_error_lists_every_fault(tmp_path):
    values = tensors()
    del values["norm.bias"], values["conv_in.bias"]
    values["norm.weight"] = np.ones((1, 600), np.float32)
    values["conv_out.weight"] = np.ones(5, np.float32)
    text = message(load_params, write(tmp_path, values), shapes())
    for line in (
        "missing: norm.bias (600,)",
        "missing: conv_in.bias (4,)",
        "unexpected: conv_out.weight (5,)",
        "misshaped: norm.weight (1, 600), expected (600,)",
        str(tmp_path),
    ):
        assert line in text
    assert len(text.splitlines()) == 5


def test_older_names_and_buffers_are_understood(tmp_path):
    values = tensors()
    reference, fingerprint = load_params(write(tmp_path / "new", values), shapes())
    old = {
        key.replace("to_q", "query").replace("to_out.0", "proj_attn").removeprefix("text_model."): v
        for key, v in values.items()
    }
    old["embeddings.position_ids"] = np.arange(7)[None]
    params, same = load_params(write(tmp_path / "old", old), shapes())
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, reference))
    assert same == fingerprint


def test_keys_of_another_network_are_passed_over_only_when_told(tmp_path):
    folder = write(tmp_path, {**tensors(), "logit_scale": np.float32([3])})
    load_params(folder, shapes(), ignore=("logit_scale",))
    assert "unexpected: logit_scale" in message(load_params, folder, shapes())


def test_variants_and_what_else_is_there(tmp_path):
    half = {key: value.astype(np.float16) for key, value in tensors().items()}
    write(tmp_path, half, "model.fp16.safetensors")
    params, _ = load_params(tmp_path, shapes(), variant="fp16")
    np.testing.assert_array_equal(params["norm"]["bias"], half["norm.bias"].astype(np.float32))
    for variant in (None, "bf16"):
        text = message(load_params, tmp_path, shapes(), variant=variant)
        assert "model.fp16.safetensors" in text and "variant" in text


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_files_and_their_index(tmp_path, variant):
    infix = f".{variant}" if variant else ""
    values, weight_map = tensors(), {}
    for number, part in enumerate(np.array_split(list(values), 3), start=1):
        name = f"model{infix}-0000{number}-of-00003.safetensors"
        write(tmp_path, {key: values[key] for key in part}, name)
        weight_map |= dict.fromkeys(part, name)
    index = tmp_path / f"model.safetensors.index{infix}.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    params, fingerprint = load_params(tmp_path, shapes(), variant=variant)
    np.testing.assert_array_equal(params["norm"]["scale"], values["norm.weight"])
    assert fingerprint == load_params(write(tmp_path / "one", values), shapes())[1]
    (tmp_path / name).unlink()
    text = message(load_params, tmp_path, shapes(), variant=variant)
    assert name in text and index.name in text


def test_fingerprint_tells_models_apart_but_not_precisions(tmp_path):
    values = tensors()
    values["norm.weight"][3] = 1e30  # beyond half precision
    with np.errstate(over="ignore"):
        half = {key: value.astype(np.float16) for key, value in values.items()}
    other = {**values, "norm.bias": values["norm.bias"] + 0.01}
    prints = [
        load_params(write(tmp_path / str(number), each), shapes())[1]
        for number, each in enumerate((values, half, other))
    ]
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64


def test_place_sees_each_parameter_as_the_file_has_it(tmp_path):
    half = {key: value.astype(np.float16) for key, value in tensors().items()}
    seen = {}
    place = lambda path, array: seen.setdefault(path, array).shape  # noqa: E731
    params, _ = load_params(write(tmp_path, half), shapes(), place=place)
    assert seen["mid_block.attentions.0.to_q.kernel"].dtype == np.float16
    assert params["mid_block.attentions.0"]["to_q"]["kernel"] == (2, 3)
    assert len(seen) == len(KEYS)


@pytest.mark.parametrize("kept", [0, 128], ids=["device elsewhere", "device is the host"])
def test_the_host_holds_one_tensor_at_a_time(tmp_path, kept):
    """What Python and NumPy hold at most, in MiB, while 16 tensors of 8 MiB pass through them.

    The process's own memory would say more, but allocators give it back when they like.
    """
    tree = {f"layers.{index}": {"kernel": (1024, 2048)} for index in range(16)}
    tensor = np.ones((2048, 1024), np.float32)
    write(tmp_path, {f"{name}.weight": tensor for name in tree})
    tracemalloc.start()
    try:
        place = (lambda path, array: array) if kept else (lambda path, array: array.shape)
        load_params(tmp_path, shapes(tree), place=place)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert max(kept, 8) < peak < kept + 24


@pytest.mark.parametrize("damage", ["cut", "empty", "git-lfs pointer"])
def test_a_damaged_file_is_named(tmp_path, damage):
    file = write(tmp_path, tensors()) / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167536\n"
    file.write_bytes({"cut": whole[:-9], "empty": b"", "git-lfs pointer": pointer}[damage])
    text = message(load_params, tmp_path, shapes())
    assert str(file) in text and "download or copy it again" in text
