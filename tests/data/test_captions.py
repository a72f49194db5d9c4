import numpy as np
import pytest

from moa_jax.data.captions import IMAGE_MARKER, encode_caption, find_word, insert_markers
from moa_jax.errors import InputError

LONG = "a man reading in the snow " * 20


@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"])  # of Stable Diffusion 1.x and 2.x
@pytest.mark.parametrize("text", ["", "a man", "A Man,  reading: 'the book' 42 ☃ naïve", LONG])
def test_without_markers_it_is_what_the_tokenizer_gives(tokenizer, padding, text):
    usual = tokenizer.pad_token
    tokenizer.pad_token = padding
    try:
        expected = tokenizer(text, padding="max_length", truncation=True).input_ids
        np.testing.assert_array_equal(encode_caption(tokenizer, text).input_ids, expected)
    finally:
        tokenizer.pad_token = usual


def test_a_marker_takes_the_last_token_before_it_and_leaves_no_trace(tokenizer):
    marked = "a man <|image|> and a woman<|image|>'s dog"
    encoded = encode_caption(tokenizer, marked)
    plain = encode_caption(tokenizer, "a man and a woman's dog")
    np.testing.assert_array_equal(encoded.input_ids, plain.input_ids)
    words = [tokenizer.decode([encoded.input_ids[place]]) for place in encoded.subject_tokens]
    assert words == ["man", "woman"]
    assert encoded.truncated == ""


def test_a_word_of_several_tokens_gives_its_last(tokenizer):
    encoded = encode_caption(tokenizer, f"an astronaut {IMAGE_MARKER} reading")
    pieces = tokenizer("astronaut", add_special_tokens=False).input_ids
    assert len(pieces) > 1
    (place,) = encoded.subject_tokens
    assert place == 1 + len(pieces)  # begin, "an", then the pieces
    assert encoded.input_ids[place] == pieces[-1]


@pytest.mark.parametrize(
    "text",
    ["<|image|> man", "  <|image|>", "a man <|image|> <|image|>", "a man <|image|>, <|image|>"],
)
def test_a_marker_without_a_word_is_an_error(tokenizer, text):
    with pytest.raises(InputError, match="no word before it"):
        encode_caption(tokenizer, text)


def test_the_last_place_for_a_word(tokenizer):
    fits = encode_caption(tokenizer, "the " * 74 + "man <|image|> and a dog")
    assert fits.subject_tokens == (75,)
    assert fits.input_ids[75] == tokenizer.convert_tokens_to_ids("man</w>")
    assert fits.input_ids[76] == tokenizer.eos_token_id
    assert fits.truncated == "and a dog"
    with pytest.raises(InputError, match="'man', the word before marker 1 .* token 76 .* 75 fit"):
        encode_caption(tokenizer, "the " * 75 + "man <|image|>")


def test_it_tokenizes_the_same_whatever_padding_another_caller_asked_for(tokenizer):
    expected = encode_caption(tokenizer, LONG + "x").truncated
    tokenizer("a man", padding="max_length", truncation=True)
    assert encode_caption(tokenizer, LONG + "x").truncated == expected


def test_a_tokenizer_that_does_not_say_its_length(tokenizer):
    usual = tokenizer.model_max_length
    tokenizer.model_max_length = int(1e30)
    try:
        with pytest.raises(InputError, match="model_max_length"):
            encode_caption(tokenizer, "a man")
    finally:
        tokenizer.model_max_length = usual


def test_insert_markers_in_any_order():
    caption = "a man and a dog"
    assert insert_markers(caption, [15, 5]) == "a man <|image|> and a dog <|image|>"
    assert insert_markers(caption, []) == caption


def test_find_word():
    caption = "A man, a woman and another Man"
    assert caption[: find_word(caption, "man")] == "A man"
    assert find_word(caption, "man", 2) == len(caption)
    assert find_word(caption, "man", 3) is None
    assert caption[: find_word(caption, "a woman")] == "A man, a woman"
    assert find_word(caption, "wom") is None
    assert find_word("1+1 (two)", "(two)") == 9
