"""Qwen3-VL on random weights: what goes in, and what is taken of its answer."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from moa_jax.dataset.qwen3_vl import INSTRUCTIONS, Qwen3VL
from tests.dataset.tiny import write_qwen3_vl

PICTURE = Image.fromarray(skimage.data.astronaut())


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return Qwen3VL(str(write_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl"))), max_new_tokens=4)


def test_it_gives_captions(network):
    captions = [network.caption(PICTURE, attempt) for attempt in range(network.attempts)]
    assert len(captions) == 3 and not any("<|" in caption for caption in captions)


def test_the_chat_holds_the_picture_and_the_instruction(network):
    inputs = network._inputs(PICTURE, INSTRUCTIONS[0])
    text = network._tokenizer.decode(inputs["input_ids"][0])
    # 128 pixels in patches of 16, of which four make a piece.
    places = "<|image_pad|>" * 16
    assert text == (
        f"<|im_start|>user\n<|vision_start|>{places}<|vision_end|>{INSTRUCTIONS[0]}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert inputs["mm_token_type_ids"].sum() == 16
    small = np.asarray(PICTURE.resize((128, 128), Image.BICUBIC), np.float32) / 127.5 - 1
    first = inputs["pixel_values"][0].reshape(3, 2, 16, 16)  # twice: a film of two frames
    expected = torch.tensor(small[:16, :16]).permute(2, 0, 1)
    assert (first[:, 0] - expected).abs().max() < 0.05 and torch.equal(first[:, 0], first[:, 1])


def test_only_the_answer_is_taken(network, monkeypatch):
    def generate(input_ids, **inputs):
        answer = network._tokenizer(" A man. <|im_end|>", return_tensors="pt").input_ids
        return torch.cat([input_ids, answer], 1)

    monkeypatch.setattr(network._model, "generate", generate)
    assert network.caption(PICTURE, 2) == "A man."


def test_the_picture_matters(network):
    def logits(image):
        with torch.inference_mode():
            return network._model(**network._inputs(image, INSTRUCTIONS[0])).logits[0, -1]

    other = Image.fromarray(skimage.data.camera()).convert("RGB")
    assert (logits(PICTURE) - logits(other)).abs().max() > 1e-4
