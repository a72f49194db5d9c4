import json

import numpy as np
import pytest
import transformers

from moa_jax.backbone.tokenizer import write_tokenizer
from moa_jax.data.captions import (
    IMAGE_MARKER,
    encode_caption,
    encode_words,
    find_word,
    is_inside_word,
    word_end,
)
from moa_jax.errors import InputError

LONG = "a man reading in the snow " * 20
# Merges of CLIP's own vocabulary, in its order: endings, runs of punctuation, whole letters of two
# bytes and parts of letters of three, which the small vocabulary has not.
MERGES = ("' s</w>", "! )</w>", "ð Ł", "Ã ©</w>", "å ¥", "f Ã©</w>", "ðŁ ĺ", "ç Ķ")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The small tokenizer with some of CLIP's merges."""
    folder = tmp_path_factory.mktemp("clip")
    write_tokenizer(folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    for merge in MERGES:
        vocabulary.setdefault(merge.replace(" ", ""), len(vocabulary))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with (folder / "merges.txt").open("a", encoding="utf-8") as file:
        file.write("\n".join(MERGES) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(params=["small", "clip"])
def either(request, tokenizer, clip):
    return {"small": tokenizer, "clip": clip}[request.param]


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


# What precedes the marker, and the characters whose last token it takes.
WORDS = {
    "a man, ": "man",
    "a man's ": "man",
    "a man\u2019s ": "man",
    "they'd've ": "they",
    "a man 's ": "man",  # as data sets of captions have it
    '"man" ': "man",
    "a man (old) ": "old",
    "a man!) ": "man",
    "a man \U0001f600 ": "man",
    "a man \u2014 ": "man",
    "a man <|endoftext|> ": "man",
    "a man<|startoftext|>": "man",
    "R2D2 ": "2",
    "man2! ": "2",
    "old_man_ ": "man",
    "o'mara ": "mara",
    "caf\u00e9, ": "\u00e9",
    "cafe\u0301 ": "\u00e9",  # composed before it is tokenized
    "\u7537\u5973, ": "\u5973",
}


@pytest.mark.parametrize("before", WORDS)
def test_a_marker_takes_the_last_token_with_letters_of_the_word_before_it(either, before):
    encoded = encode_caption(either, f"{before}{IMAGE_MARKER} in the snow")
    plain = either(f"{before} in the snow", padding="max_length").input_ids
    np.testing.assert_array_equal(encoded.input_ids, plain)
    # The tokens up to the one that is taken spell the text up to the end of the word.
    (place,) = encoded.subject_tokens
    skipped = ("\u2019s", "'s", "'d've") if WORDS[before] in ("man", "they") else ()
    spelled = either.decode(encoded.input_ids[1 : place + 1]).replace(" ", "")
    assert spelled.endswith(WORDS[before])
    rest = either.decode(encoded.input_ids[place + 1 :], skip_special_tokens=True)
    rest = rest.replace(" ", "").removesuffix("inthesnow")
    assert rest in skipped or not any(map(str.isalnum, rest))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<|image|> man", "marker 1 .* no word before it in ''"),
        ("  <|image|>", "no word before it"),
        ("_ ... \U0001f600 <|image|>", "no word before it"),
        ("'s <|image|>", "no word before it"),
        ("<|endoftext|><|image|>", "no word before it"),
        ("a man <|image|> <|image|>", "marker 2 .* no word before it but that of marker 1"),
        ("a man <|image|>, <|image|>", "marker 2 .* no word before it but that of marker 1"),
        ("a man <|image|>'s <|image|>", "marker 2 .* no word before it but that of marker 1"),
        ("a man<|image|>s", "marker 1 .* is inside a word in 'a man<.image.>s'; .* a space"),
        ("a man<|image|>2", "is inside a word"),
    ],
)
def test_a_marker_without_a_word_is_an_error(either, text, message):
    with pytest.raises(InputError, match=message):
        encode_caption(either, text)


@pytest.mark.parametrize(
    "text",
    ["a man<|image|>!) so", "(a man<|image|>)", "(a man <|image|>!)", "a man<|image|>'s dog"],
)
def test_the_ids_are_those_of_the_text_without_markers(either, text):
    plain = either(text.replace(IMAGE_MARKER, ""), padding="max_length").input_ids
    encoded = encode_caption(either, text)
    np.testing.assert_array_equal(encoded.input_ids, plain)
    assert either.decode(encoded.input_ids[encoded.subject_tokens[0]]).strip() == "man"


def test_words_given_by_their_ends(clip):
    caption = "(a man!) and a woman's dog"
    encoded = encode_words(clip, caption, [7, len("(a man!) and a woman's")])
    assert encoded.input_ids.tolist() == clip(caption, padding="max_length").input_ids
    words = [clip.decode(encoded.input_ids[place]).strip() for place in encoded.subject_tokens]
    assert words == ["man", "woman"]


def test_where_a_word_ends():
    assert word_end("a man, old", 6) == 5
    assert word_end("man's", 5) == word_end("man's", 4) == 3
    assert word_end("mans", 4) == 4
    assert word_end("!?", 2) is None
    assert [is_inside_word("man's", place) for place in range(6)] == [False, True, True] + [
        False
    ] * 3


def test_the_last_place_for_a_word(tokenizer):
    fits = encode_caption(tokenizer, "the " * 74 + "man <|image|> and a dog")
    assert fits.subject_tokens == (75,)
    assert fits.input_ids[75] == tokenizer.convert_tokens_to_ids("man</w>")
    assert fits.input_ids[76] == tokenizer.eos_token_id
    assert fits.truncated == "and a dog"
    with pytest.raises(InputError, match="'man', a subject's word, is token 76 .* 75 fit"):
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


def test_find_word():
    caption = "A man, a woman and another Man"
    assert caption[: find_word(caption, "man")] == "A man"
    assert find_word(caption, "man", 2) == len(caption)
    assert find_word(caption, "man", 3) is None
    assert caption[: find_word(caption, "a woman")] == "A man, a woman"
    assert find_word(caption, "wom") is None
    assert find_word("1+1 (two)", "(two)") == 9
