"""CLIP's cosine of picture and prompt, against transformers' CLIPModel on random weights."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from moa_jax.backbone.tokenizer import write_tokenizer
from moa_jax.errors import InputError
from moa_jax.evaluation.faces.clip_score import ClipScore

TEXTS = ["a woman on a beach", "a man", "a woman reading a book in the snow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny complete CLIP with random weights, as transformers writes it."""
    folder = tmp_path_factory.mktemp("clip")
    write_tokenizer(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    sides = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sides |= {"num_attention_heads": 2}
    end = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = transformers.CLIPConfig(
        text_config={**sides, "vocab_size": len(tokenizer), **end},
        vision_config={**sides, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def pictures(count):
    noise = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), np.uint8)
    return [Image.fromarray(each) for each in noise]


def oracle(folder, images, texts):
    model = transformers.CLIPModel.from_pretrained(folder)
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(
        texts, padding="max_length", max_length=77, return_tensors="pt"
    )
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    pixels = torch.tensor(np.stack(processor(images)["pixel_values"]))
    with torch.no_grad():
        found = model(input_ids=tokens.input_ids, pixel_values=pixels)
    return (found.text_embeds * found.image_embeds).sum(dim=1).numpy()


def test_a_cosine_is_transformers(folder):
    images = pictures(3)
    found = ClipScore(folder)(images, TEXTS)
    assert np.ptp(found) > 0.01
    assert np.allclose(found, oracle(folder, images, TEXTS), atol=2e-4)


def test_many_pictures_go_through_in_batches(folder):
    images, texts = pictures(18), [*TEXTS] * 6
    score = ClipScore(folder)
    assert np.allclose(score(images, texts)[15:], score(images[15:], texts[15:]), atol=1e-6)
    assert score([], []).shape == (0,)


def test_a_folder_with_one_tower_is_refused(tiny_folder):
    for part in ("text_encoder", "image_encoder"):
        with pytest.raises(InputError, match="--clip .*needs a complete CLIP, with both towers"):
            ClipScore(tiny_folder / part)
