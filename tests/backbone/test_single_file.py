"""A single file says what it is, and what is none is refused."""

import shutil

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.checkpoint import find_checkpoint
from moa_jax.backbone.single_file import find_single_file, read_single_file
from moa_jax.backbone.stable_diffusion import NETWORKS, load_stable_diffusion
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from tests.backbone.compvis import write_file, write_hollow

FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def message(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_half_precision_averages_and_other_parts(pipelines, tmp_path):
    """What files hold besides: averages of training, the schedule, and what CLIP does not need."""
    _, folder, tensors = pipelines["1.x"]
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    average = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": 0 * tensor
        for name, tensor in half.items()
        if name.startswith("model.")
    }
    others = {
        "alphas_cumprod": np.ones(1000, np.float32),
        "model_ema.decay": np.ones((), np.float32),
        "first_stage_model.loss.logvar": np.zeros((), np.float32),
        "first_stage_model.model_ema.num_updates": np.zeros((), np.int32),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(77)[None],
        "cond_stage_model.logit_scale": np.zeros((), np.float32),
        "control.anything": np.zeros(3, np.float32),
    }
    file = write_file(tmp_path / "half.safetensors", half | average | others)
    one = load_stable_diffusion(file, jnp.bfloat16, tokenizer=folder)
    other = load_stable_diffusion(folder)
    for name in NETWORKS:
        assert getattr(one, name).fingerprint == getattr(other, name).fingerprint
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(getattr(one, name).params)}
        assert dtypes == {jnp.dtype("bfloat16")}
    dtypes = set()
    load_stable_diffusion(file, tokenizer=folder, place=lambda _, array: dtypes.add(array.dtype))
    assert dtypes == {np.dtype("float16")}


def test_names_of_other_tools(pipelines, tmp_path):
    """The first text towers had names without text_model, and some VAEs have diffusers' parts."""
    _, folder, tensors = pipelines["1.x"]
    other = {}
    for name, tensor in tensors.items():
        name = name.replace("transformer.text_model.", "transformer.")
        if ".attn_1." in name and "norm" not in name:
            old = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}
            names = old if "encoder" in name else {"q": "to_q", "proj_out": "to_out.0"}
            module, part, leaf = name.removesuffix("0").rsplit(".", 2)
            name, tensor = f"{module}.{names.get(part, part)}.{leaf}", tensor.squeeze()
        other[name] = tensor
    file = write_file(tmp_path / "other.safetensors", other)
    sd = load_stable_diffusion(file, tokenizer=folder)
    reference = load_stable_diffusion(folder)
    assert Identity.of(sd).fingerprints == Identity.of(reference).fingerprints


def test_what_is_not_used_is_named_and_what_is_missing_is_an_error(pipelines, tmp_path):
    _, folder, tensors = pipelines["1.x"]
    more = {f"model.diffusion_model.fuser.{n}.weight": np.zeros(3, np.float32) for n in range(7)}
    file = write_file(tmp_path / "more.safetensors", tensors | more)
    with pytest.warns(UserWarning, match=r"more than is used: fuser.0.weight \(3,\).*and 2 more"):
        load_stable_diffusion(file, tokenizer=folder)
    fewer = dict(tensors)
    del fewer["model.diffusion_model.middle_block.1.proj_out.bias"]
    file = write_file(tmp_path / "fewer.safetensors", fewer)
    text = message(load_stable_diffusion, file, tokenizer=folder)
    assert str(file) in text and "missing: mid_block.attentions.0.proj_out.bias (64,)" in text
    del fewer["first_stage_model.decoder.conv_in.weight"]
    text = message(read_single_file, write_file(tmp_path / "less.safetensors", fewer))
    assert "lacks the tensor that diffusers calls 'decoder.conv_in.weight'" in text


@pytest.mark.parametrize(
    ("kind", "said", "asked", "predicts", "size"),
    [
        ("1.x", {}, None, "epsilon", 64),
        ("1.x", {"modelspec.prediction_type": "v"}, None, "v_prediction", 64),
        ("1.x", {"v_pred": True}, None, "v_prediction", 64),
        ("2.x", {"modelspec.prediction_type": "epsilon"}, None, "epsilon", 64),
        ("2.x", {"modelspec.prediction_type": "epsilon"}, "v_prediction", "v_prediction", 96),
        ("2.x", {}, "epsilon", "epsilon", 64),
        ("2.x", {}, None, "v_prediction", 96),
    ],
)
def test_what_is_predicted(kind, said, asked, predicts, size, pipelines, tmp_path, recwarn):
    _, folder, tensors = pipelines[kind]
    marks = {"v_pred": np.zeros(0, np.float32)} if said.pop("v_pred", False) else {}
    file = write_file(tmp_path / "said.safetensors", tensors | marks, **said)
    found = find_checkpoint(file, tokenizer=folder, prediction_type=asked)
    assert found.configs["scheduler"]["prediction_type"] == predicts
    assert found.configs["unet"]["sample_size"] == size
    undecided = kind == "2.x" and not said and not asked
    texts = [str(each.message) for each in recwarn]
    assert ["--prediction-type" in text for text in texts] == [True] * undecided


def test_the_mark_of_zero_terminal_snr(pipelines, tmp_path):
    _, _, tensors = pipelines["1.x"]
    marks = {"ztsnr": np.zeros(0, np.float32), "v_pred": np.zeros(0, np.float32)}
    read = read_single_file(write_file(tmp_path / "z.safetensors", tensors | marks))
    assert read.configs["scheduler"]["rescale_betas_zero_snr"] is True


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("conditioner.embedders.0.transformer.text_model.a", ["Stable Diffusion XL", "only"]),
        ("model.diffusion_model.joint_blocks.0.x_block.a", ["Stable Diffusion 3", "only"]),
        ("double_blocks.0.img_attn.norm.key_norm.scale", ["Flux", "only"]),
        ("control_model.input_hint_block.0.weight", ["ControlNet", "--controlnet"]),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", ["LoRA", "--lora"]),
        ("unet.down_blocks.0.attentions.0.attn1.to_k.lora.down.weight", ["LoRA", "--lora"]),
        ("emb_params", ["textual inversion"]),
        ("down_blocks.0.motion_modules.0.a", ["motion module"]),
        ("down_blocks.0.resnets.0.norm1.weight", ["one network", "whole folder"]),
        ("decoder.up.0.block.0.norm1.weight", ["VAE alone", "whole checkpoint"]),
        ("something.else", ["no Stable Diffusion checkpoint", FIRST]),
    ],
)
def test_other_files_are_refused_with_what_they_are(names, words, tmp_path):
    file = write_file(tmp_path / "other.safetensors", {names: np.zeros(3, np.float32)})
    text = message(read_single_file, file)
    assert all(word in text for word in [*words, str(file)]), text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({FIRST: (32, 9, 3, 3)}, ["an inpainting model", "9 input channels"]),
        ({FIRST: (32, 8, 3, 3)}, ["InstructPix2Pix"]),
        ({FIRST: (32, 5, 3, 3)}, ["depth"]),
        ({"model.diffusion_model.label_emb.0.0.weight": (3, 3)}, ["label_emb", "unCLIP"]),
        ({"attn2.to_k.weight": (32, 2048)}, ["width 2048", "Stable Diffusion XL's"]),
        ({"attn2.to_k.weight": (32, 99)}, ["width 99", "no Stable Diffusion"]),
        ({"first_stage_model.": None}, ["has no VAE", "vae=...", "save_pretrained"]),
        ({"cond_stage_model.": None}, ["has no text encoder", "text_encoder=...", "from_single"]),
    ],
)
def test_relatives_of_stable_diffusion_are_refused(change, words, pipelines, tmp_path):
    shapes = {name: tensor.shape for name, tensor in pipelines["1.x"][2].items()}
    for part, shape in change.items():
        matching = [name for name in shapes if part in name] or [part]
        for name in matching:
            if shape is None:
                del shapes[name]
            else:
                shapes[name] = shape
    text = message(read_single_file, write_hollow(tmp_path / "relative.safetensors", shapes))
    assert all(word in text for word in words), text


@pytest.mark.parametrize("name", ["model.ckpt", "model.CKPT", "owner/name/v1-5.ckpt", "a/b.pt"])
def test_a_pickle_is_refused_whether_it_is_there_or_not(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    text = message(load_stable_diffusion, name)
    assert name in text and "pickle" in text and "save_pretrained(FOLDER)" in text


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"\x80\x04.")  # a pickle by another name
    assert "truncated or damaged" in message(load_stable_diffusion, tmp_path / "a.safetensors")
    (tmp_path / "a.gguf").touch()
    assert "is a file, but no .safetensors" in message(load_stable_diffusion, tmp_path / "a.gguf")
    for name in ("./none.safetensors", "/no/none.safetensors", "folder/none.safetensors"):
        assert "there is no such file" in message(load_stable_diffusion, name)
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    assert find_single_file(folder) is None and find_single_file("owner/name") is None


def test_a_file_on_the_hub(files, tmp_path, monkeypatch):
    for name in ("v1-5.safetensors", "old/v1.4.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(files["1.x"], tmp_path / name)
    asked = []

    def snapshot_download(repo_id, allow_patterns):
        asked.append((repo_id, *allow_patterns))
        if repo_id == "owner/gone":
            raise OSError("no such repository")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for name in ("v1-5.safetensors", "old/v1.4.safetensors"):
        assert find_single_file(f"owner/name/{name}") == tmp_path / name
        assert asked.pop() == ("owner/name", name)
    text = message(find_single_file, "owner/name/other.safetensors")
    assert text == "'owner/name' on the Hugging Face hub has no file 'other.safetensors'"
    text = message(find_single_file, "owner/gone/a.safetensors")
    assert "'owner/gone/a.safetensors' is not a file here" in text
    assert text.endswith("no such repository")
