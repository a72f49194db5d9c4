"""Folders are found, here or on the hub, and what they lack is named."""

import types
from pathlib import Path

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors import safe_open
from safetensors.numpy import save_file

from moa_jax.backbone.folder import open_tensors, packaged, read_config, resolve, weight_files
from moa_jax.errors import InputError
from moa_jax.toyworld import WEIGHTS


def message(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "sd.ckpt"])
def test_a_pickle_is_refused_with_the_reason_and_the_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    text = message(weight_files, tmp_path, None)
    assert name in text and "code" in text and "safe_serialization=True" in text


def test_missing_files_are_named(tmp_path):
    assert "no *.safetensors" in message(weight_files, tmp_path, None)
    assert "config.json" in message(read_config, tmp_path)
    assert "nowhere" in message(read_config, tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    assert "JSON" in message(read_config, tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "JSON object" in message(read_config, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "weight_map" in message(weight_files, tmp_path, None)


def test_what_comes_with_the_package_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = "moa_jax/toyworld/weights/base"
    assert resolve(base) == WEIGHTS / "base"
    assert packaged("moa_jax/elsewhere") == Path("moa_jax/elsewhere")
    Path(base).mkdir(parents=True)
    assert resolve(base) == Path(base)


def test_resolve_takes_a_folder_and_explains_what_is_none(tmp_path, monkeypatch):
    assert resolve(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~") == tmp_path
    file = tmp_path / "v1-5-pruned.safetensors"
    file.touch()
    assert "from_single_file" in message(resolve, file)
    for name in ("./nowhere", "/no/such/folder", "a/b/c"):
        assert "no such folder" in message(resolve, name)
    assert "no model is named" in message(resolve, "")


def test_resolve_downloads_only_what_is_read(tmp_path, monkeypatch):
    asked = types.SimpleNamespace()

    def snapshot_download(repo_id, allow_patterns):
        asked.repo, asked.patterns = repo_id, allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    files = """
        model_index.json README.md v1-5-pruned.safetensors v1-5-pruned.ckpt
        unet/config.json unet/diffusion_pytorch_model.safetensors unet/diffusion_pytorch_model.bin
        unet/diffusion_pytorch_model.fp16.safetensors
        unet/diffusion_pytorch_model.non_ema.safetensors
        unet/diffusion_pytorch_model-00001-of-00002.safetensors
        unet/diffusion_pytorch_model.safetensors.index.json
        tokenizer/vocab.json tokenizer/merges.txt
        safety_checker/config.json safety_checker/model.safetensors
    """.split()
    common = "model_index.json tokenizer/merges.txt tokenizer/vocab.json unet/config.json".split()
    plain = "diffusion_pytorch_model"
    wanted = {
        None: [f"{plain}-00001-of-00002.safetensors", f"{plain}.safetensors"],
        "fp16": [f"{plain}.fp16.safetensors"],
    }
    for variant, weights in wanted.items():
        assert resolve("owner/name", ("unet", "tokenizer"), variant) == tmp_path
        kept = set(filter_repo_objects(files, allow_patterns=asked.patterns))
        weights = [f"unet/{name}" for name in weights]
        assert kept == {*common, *weights, f"unet/{plain}.safetensors.index.json"}
    assert asked.repo == "owner/name"


def test_a_download_that_fails_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    text = message(resolve, "moa-jax-tests/there-is-no-such-model")
    assert "there-is-no-such-model" in text and "hub does not give it" in text


def test_tensors_are_read_as_safetensors_reads_them(tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 5))
    tensors = {kind: values.astype(kind) for kind in ("float32", "float16", ml_dtypes.bfloat16)}
    tensors = {f"of {array.dtype}": array for array in tensors.values()}
    tensors |= {"counts": np.arange(7), "one": np.array(2.5, np.float32), "none": values[:0]}
    file = tmp_path / "weights.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    with open_tensors(file) as ours, safe_open(file, framework="numpy") as theirs:
        assert ours.keys() == list(theirs.keys()) and ours.metadata() == {"format": "pt"}
        for name, tensor in tensors.items():
            read, expected = ours.get_tensor(name), theirs.get_tensor(name)
            assert (read.dtype, read.shape) == (expected.dtype, tensor.shape)
            np.testing.assert_array_equal(read, expected)
            assert ours.get_slice(name).get_shape() == list(tensor.shape)
