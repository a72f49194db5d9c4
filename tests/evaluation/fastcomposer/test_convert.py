"""What is read of FastComposer's file, what is written, and what is refused and why."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from moa_jax import Pipeline
from moa_jax.backbone.folder import read_config
from moa_jax.errors import InputError
from moa_jax.evaluation.fastcomposer import convert as converting
from moa_jax.evaluation.fastcomposer.command import main
from moa_jax.evaluation.fastcomposer.convert import CLIP_VIT_L_14, convert, described_base, write
from moa_jax.evaluation.fastcomposer.variant import FastComposer
from moa_jax.method.weights import read_moa_card
from moa_jax.testing import CHECKS, check_variant
from tests.backbone.full_size_configs import VISION_CLIP_L
from tests.personal import MARKED, pixels, portrait

SUBJECTS = [portrait(1), portrait(2)]
DRAW = {"num_inference_steps": 4, "seed": 2}


@pytest.fixture
def changed(oracle, tmp_path):
    """Writes the released file with some tensors replaced, or taken out by None."""

    def make(changes, **options):
        state = {**oracle.state(), **changes}
        file = tmp_path / "changed.bin"
        kept = {key: value for key, value in state.items() if value is not None}
        oracle.torch.save(kept, file, **options)
        return file

    return make


@pytest.mark.slow
def test_it_is_a_sound_variant():
    found = check_variant(FastComposer(), router_loss_weight=0.0)
    assert found == dict.fromkeys(CHECKS, "passed")


def test_every_tensor_of_the_file_is_in_the_folder_once(oracle, imported):
    """But for buffers: bit for bit, under its present name."""
    written = {
        (name, key): tensor
        for name in ("unet", "vae", "text_encoder", "image_encoder")
        for file in (imported / "base" / name).glob("*.safetensors")
        for key, tensor in load_file(file).items()
    }
    state = {
        key: value.numpy() for key, value in oracle.state().items() if "position_ids" not in key
    }
    fusion = load_file(imported / "moa.safetensors")
    assert len(fusion) == 14
    assert len(written) + len(fusion) == len(state)
    found = sorted(array.tobytes() for array in written.values())
    expected = {key: value for key, value in state.items() if not key.startswith("postfuse")}
    assert found == sorted(array.tobytes() for array in expected.values())
    np.testing.assert_array_equal(
        fusion["prompt.fusion.mlp2.fc1.kernel"], state["postfuse_module.mlp2.fc1.weight"].T
    )
    assert {key.split(".")[1] for key in fusion} == {"fusion"}


def test_the_card_names_the_variant_and_the_base(imported):
    card = read_moa_card(imported)
    assert card.config.model.base == str(imported / "base")
    assert card.config.method.mixture.endswith("fastcomposer.variant:FastComposer")
    assert not card.config.method.time_layer_conditioning and not card.carried
    listed = {path.name for path in (imported / "base").iterdir()}
    assert {"tokenizer", "scheduler", "model_index.json"} <= listed


def test_weights_in_half_precision_stay_so(oracle, changed, tiny_folder, tmp_path):
    torch = oracle.torch
    halves = {
        key: value.to(torch.bfloat16 if key.startswith("vae.") else torch.float16)
        for key, value in oracle.state().items()
        if key.startswith(("vae.", "unet."))
    }
    key = "postfuse_module.mlp1.fc1.weight"  # a file may hold a parameter in place of a tensor
    halves[key] = torch.nn.Parameter(oracle.state()[key])
    write(tmp_path / "out", convert(changed(halves), tiny_folder))
    arrays = load_file(tmp_path / "out/base/unet/diffusion_pytorch_model.safetensors")
    assert {str(array.dtype) for array in arrays.values()} == {"float16"}
    arrays = load_file(tmp_path / "out/base/vae/diffusion_pytorch_model.safetensors")
    assert {str(array.dtype) for array in arrays.values()} == {"bfloat16"}
    key = "vae.decoder.conv_in.weight"
    np.testing.assert_array_equal(
        arrays["decoder.conv_in.weight"].astype(np.float32), halves[key].float().numpy()
    )
    Pipeline.from_pretrained(tmp_path / "out/base", tmp_path / "out")


def test_the_subjects_count_and_the_dial_and_the_delay_take_them_out(composer):
    """At 0, or with a delay of all steps, the same U-Net draws the text alone."""
    both = pixels(composer(MARKED, SUBJECTS, **DRAW))
    plain = pixels(composer(MARKED.replace("<|image|>", ""), **DRAW))
    swapped = pixels(composer(MARKED, SUBJECTS[::-1], **DRAW))
    assert np.abs(both - plain).mean() > 0.5 and np.abs(both - swapped).mean() > 0.1
    for without in ({"moa_strength": 0.0}, {"delay": 1.0}):
        np.testing.assert_array_equal(pixels(composer(MARKED, SUBJECTS, **without, **DRAW)), plain)


def test_what_does_not_fit_is_listed_whole(oracle, changed, tiny_folder):
    torch = oracle.torch
    file = changed(
        {
            "unet.conv_in.bias": None,
            "unet.conv_out.bias": torch.zeros(5),
            "vae.extra.weight": torch.zeros(2),
            "postfuse_module.layer_norm.weight": None,
            "postfuse_module.mlp3.fc1.bias": torch.zeros(3),
        }
    )
    with pytest.raises(InputError) as error:
        convert(file, tiny_folder)
    said = str(error.value)
    for line in (
        "missing: conv_in.bias (32,)",
        "misshaped: conv_out.bias (5,), expected (4,)",
        "unexpected: extra.weight (2,)",
        "missing: layer_norm.weight (32,)",
        "unexpected: mlp3.fc1.bias (3,)",
    ):
        assert line in said, (line, said)
    assert said.count("of unet.*") == said.count("of vae.*") == said.count("postfuse_module.*") == 1


def test_files_that_are_not_fastcomposers_are_refused(oracle, tiny_folder, tmp_path, changed):
    torch = oracle.torch
    tensor = torch.zeros(2)
    cases = {
        "no key begins with unet.": {"model.diffusion_model.weight": tensor},
        "unknown key: ema.decay": {**oracle.state(), "ema.decay": tensor},
        "is not a state dict": {"state_dict": oracle.state(), "step": 3},
        "holds something else than tensors": {"unet.code": converting.Imported(None, {}, None)},
    }
    for message, content in cases.items():
        file = tmp_path / "wrong.bin"
        torch.save(content, file)
        with pytest.raises(InputError, match=message):
            convert(file, tiny_folder)
    whole = changed({})
    whole.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(InputError, match="cannot be read as a PyTorch file .*copy it again"):
        convert(whole, tiny_folder)
    older = changed({}, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="cannot be read as a PyTorch file"):
        convert(older, tiny_folder)
    with pytest.raises(InputError, match="there is no such file"):
        convert(tmp_path / "none.bin", tiny_folder)


def test_without_torch_the_extra_is_named(tiny_folder, checkpoint, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"needs the library torch: pip install 'moa_jax\[import"):
        convert(checkpoint, tiny_folder)


def test_a_base_without_an_image_encoder_gets_clip_vit_l_14s(tiny_folder_v2):
    described = described_base(tiny_folder_v2)
    assert described.image_encoder.config == CLIP_VIT_L_14
    assert VISION_CLIP_L.items() >= CLIP_VIT_L_14.items()


def test_a_folder_that_is_there_is_kept(imported, checkpoint, tiny_folder, capsys):
    before = (imported / "moa.json").read_bytes()
    assert main([str(checkpoint), str(imported), "--base", str(tiny_folder)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (imported / "moa.json").read_bytes() == before


def test_a_full_disk_is_said(checkpoint, tiny_folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converting, "save_stable_diffusion", full)
    imported = convert(checkpoint, tiny_folder)
    with pytest.raises(InputError, match="No space left on device.*make room"):
        write(tmp_path / "out", imported)


def test_the_scheduler_stays_the_bases(imported, tiny_folder):
    for folder, name in (("scheduler", "scheduler_config.json"), ("vae", "config.json")):
        written = read_config(imported / "base" / folder, name)
        given = json.loads((tiny_folder / folder / name).read_text())
        assert written == given
