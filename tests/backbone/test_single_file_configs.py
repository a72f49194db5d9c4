"""The configurations of a single file are those of the published folders."""

from moa_jax.backbone.clip import TextConfig
from moa_jax.backbone.single_file import read_single_file
from moa_jax.backbone.unet import UNetConfig
from moa_jax.backbone.vae import VAEConfig
from tests.backbone import full_size_configs as full
from tests.backbone.compvis import write_hollow

CONFIGS = {
    "1.x": (full.UNET_SD15, full.VAE_SD15, full.TEXT_SD15),
    "2.x": (full.UNET_SD21, full.VAE_SD21, full.TEXT_SD21),
}


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
