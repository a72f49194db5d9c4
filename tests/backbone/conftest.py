"""Stable Diffusion in one file, tiny and full-size, for the tests of several modules."""

import pytest

from tests.backbone import full_size_configs as full
from tests.backbone.compvis import (
    clip_file,
    open_clip_file,
    tiny_pipeline,
    to_file,
    unet_file,
    vae_file,
    write_file,
)

KINDS = ("1.x", "2.x")
CONFIGS = {
    "1.x": (full.UNET_SD15, full.VAE_SD15, full.TEXT_SD15),
    "2.x": (full.UNET_SD21, full.VAE_SD21, full.TEXT_SD21),
}


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """For each kind diffusers' pipeline, its folder and all its tensors by CompVis' names."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("folder")
        pipeline = tiny_pipeline(kind, folder)
        found[kind] = pipeline, folder, to_file(pipeline)
    return found


@pytest.fixture(scope="session")
def files(pipelines, tmp_path_factory):
    """A file of each kind. That of 2.x says that it predicts velocity."""
    folder = tmp_path_factory.mktemp("file")
    said = {"1.x": {}, "2.x": {"modelspec.prediction_type": "v"}}
    return {
        kind: write_file(folder / f"{kind}.safetensors", tensors, **said[kind])
        for kind, (_, _, tensors) in pipelines.items()
    }


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


@pytest.fixture(scope="session", params=KINDS)
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
