"""Every tensor of a full-size single file is found where diffusers finds it."""

from moa_jax.backbone.single_file_names import find_pieces
from moa_jax.backbone.stable_diffusion import NETWORKS

# Tensors of the U-Net and the VAE as published, and of the text encoder as diffusers has it.
COUNTS = {"1.x": (686, 248, 12 * 16 + 4), "2.x": (686, 248, 23 * 16 + 4)}


def test_every_full_size_tensor_is_where_diffusers_finds_it(numbered):
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
