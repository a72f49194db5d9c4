"""Florence-2: recorded answers through the real processor, and the real code on random weights."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from moa_jax.dataset.florence2 import CAPTION_TASKS, Florence2, locate, plain
from moa_jax.dataset.models import Phrase
from moa_jax.errors import InputError
from tests.dataset.tiny import MEAN, SIDE, STD, write_florence2

PICTURE = Image.fromarray(skimage.data.astronaut()).resize((400, 200))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_florence2(tmp_path_factory.mktemp("florence2"))


@pytest.fixture(scope="module")
def network(folder):
    return Florence2(str(folder), max_new_tokens=8, num_beams=1)


def test_a_caption_is_text_without_places(network):
    captions = [network.caption(PICTURE, attempt) for attempt in range(network.attempts)]
    assert len(captions) == 3 and not any("<" in caption for caption in captions)


def test_the_network_gets_the_prompt_and_the_picture(network, monkeypatch):
    seen = []

    def generate(**inputs):
        seen.append(inputs)
        return torch.tensor([[2, 0, 2]])

    monkeypatch.setattr(network._model, "generate", generate)
    assert network.caption(PICTURE, 1) == ""
    network.ground(PICTURE, "a man")
    texts = [network._processor.tokenizer.decode(inputs["input_ids"][0]) for inputs in seen]
    assert texts[0].endswith("<s>What does the image describe?</s>")
    assert texts[1].endswith("<s>Locate the phrases in the caption: a man</s>")
    # As torch resizes pictures; Pillow rounds and clips after the rows, too.
    pixels = torch.tensor(np.array(PICTURE)).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(
        pixels, (SIDE, SIDE), mode="bicubic", antialias=True
    ).clamp(0, 255)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    apart = (seen[0]["pixel_values"] * std + mean) * 255 - resized
    assert apart.abs().max() < 8 and apart.abs().mean() < 0.5


def test_answers_written_by_hand_become_phrases_with_boxes(network, monkeypatch):
    caption = "A man in red, two dogs and a café; a man."
    answer = (
        "</s><s>A man in red<loc_0><loc_100><loc_499><loc_999>"
        "two dogs<loc_500><loc_0><loc_599><loc_99><loc_700><loc_0><loc_799><loc_99>"
        "a caf\u00e9<loc_0><loc_0><loc_999><loc_999>a horse<loc_1><loc_1><loc_2><loc_2>"
        "it<loc_1><loc_1><loc_2><loc_2>a man<loc_800><loc_0><loc_999><loc_999></s>"
    )
    monkeypatch.setattr(network, "_answer", lambda image, prompt: answer)
    found = network.ground(PICTURE, caption)
    texts = [caption[each.start : each.end] for each in found]
    assert texts == ["A man in red", "two dogs", "a café", "a man"]
    # Of 1000 bins of 0.4 and 0.2 pixels the middle, in whole pixels.
    assert found[0] == Phrase(0, 12, ((0.0, 20.0, 199.0, 199.0),))
    assert [len(each.boxes) for each in found] == [1, 2, 1, 1]
    assert found[3].start == 35 and found[3].boxes == ((320.0, 0.0, 399.0, 199.0),)


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("</s><s>The image shows a man in red.</s>", "A man in red."),
        ("In this picture I can see a man.<loc_3>", "A man."),
        ("In this image we can see two men and the sky.", "Two men and the sky."),
        ("A man looks at the image.", "A man looks at the image."),
        ("The image shows ", "The image shows"),
        ("<pad>", ""),
    ],
)
def test_captions_speak_of_what_is_seen(answer, caption):
    assert plain(answer) == caption


@pytest.mark.parametrize(
    ("caption", "phrases", "texts"),
    [
        ("A man, a woman.", ["A man", "a woman"], [(0, 5), (7, 14)]),
        ("a man and a man", ["a man", "a man"], [(0, 5), (10, 15)]),
        ("a man and a man", ["A man"], [(0, 5)]),
        ("a human, a man", ["man"], [(11, 14)]),
        ("a red  car", ["red car"], [(2, 10)]),
        ("a dog", ["a cat", "", "a dog"], [None, None, (0, 5)]),
        ("Zoë and a man", ["Zo", "a man"], [(0, 3), (8, 13)]),
        ("a woman, a man", ["a man", "a woman"], [(9, 14), (0, 7)]),
        ("a (tall) man", ["(tall) man"], [(2, 12)]),
    ],
)
def test_phrases_are_found_in_their_caption(caption, phrases, texts):
    assert locate(caption, phrases) == texts


def test_a_folder_without_the_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="no Florence2ForConditionalGeneration can be loaded"):
        Florence2(str(tmp_path))


def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(InputError, match="device 'cuda:7'"):
        Florence2(str(folder), device="cuda:7")


def test_each_attempt_has_a_task(network):
    assert network.attempts == len(set(CAPTION_TASKS)) == 3
    assert set(CAPTION_TASKS) <= network._processor.task_prompts_without_inputs.keys()
