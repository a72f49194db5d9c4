"""Weights and windows of prompts: what is read, against literals; what is cut, against compel."""

import re
from itertools import groupby

import numpy as np
import pytest

from moa_jax.data.captions import encode_caption
from moa_jax.errors import InputError
from moa_jax.sampling.prompts import encode_prompt, read_prompt, window_ends

# A prompt, and its texts with their weights; spaces at their ends are left out.
READ = {
    "a man": [("a man", 1)],
    "a (man:1.3) in snow": [("a", 1), ("man", 1.3), ("in snow", 1)],
    "(a man in a coat:0.5), snow": [("a man in a coat", 0.5), (", snow", 1)],
    "(a (red:1.5) coat:0.5)": [("a", 0.5), ("red", 0.75), ("coat", 0.5)],
    "((man:2):2)": [("man", 4)],
    "(man: 1.2 )": [("man", 1.2)],
    "(man:.5)(woman:2.)": [("man", 0.5), ("woman", 2)],
    "(note: a man:+1.2)": [("note: a man", 1.2)],
    "((tall) man:1.2)": [("(tall) man", 1.2)],
    "(a (man:1.2))": [("(a", 1), ("man", 1.2), (")", 1)],
    r"a \(man:1.2\)": [("a (man:1.2)", 1)],
    r"(a \(tall\) man:1.2)": [("a (tall) man", 1.2)],
    r"(man:1.2\)": [("(man:1.2)", 1)],
}


@pytest.mark.parametrize("prompt", READ)
def test_what_is_read(prompt):
    reading = read_prompt(prompt)
    runs = groupby(zip(reading.weights, reading.text, strict=True), key=lambda each: each[0])
    found = [("".join(letter for _, letter in run).strip(), weight) for weight, run in runs]
    expected = [(text, np.float32(weight)) for text, weight in READ[prompt]]
    assert [each for each in found if each[0]] == expected
    for letter, origin in zip(reading.text, reading.origins, strict=True):
        assert letter in (prompt[origin], " ")


@pytest.mark.parametrize(
    "prompt",
    [
        "a (tall) man",
        "((man)) [snow] {day:2}",
        "(man:red) :1.2) (:1.3) ( :1.3)",
        "(man:1.2",
        "(man:1.2.3) (man:1e1) (man:1,2)",
        r"a \ b \n",
    ],
)
def test_what_has_not_the_form_of_a_weight_is_text(prompt):
    reading = read_prompt(prompt)
    assert reading.text == prompt
    assert np.all(reading.weights == 1.0)


def test_a_weight_parts_words_as_separate_texts_would_be(tokenizer):
    """As in the references, which tokenize the texts one by one."""
    found = encode_prompt(tokenizer, "red(coat:1.2)(hat:0.5)man's")
    np.testing.assert_array_equal(
        found.input_ids, tokenizer("red coat hat man's", padding="max_length").input_ids
    )
    assert found.weights[:5].tolist() == [1, 1, np.float32(1.2), 0.5, 1]


@pytest.mark.parametrize("text", ["", "a (tall) man, [old]: 1.2)", "the " * 75, "A Man's \\ hat"])
def test_a_prompt_without_weights_is_a_caption(tokenizer, text):
    found, caption = encode_prompt(tokenizer, text), encode_caption(tokenizer, text)
    np.testing.assert_array_equal(found.input_ids, caption.input_ids)
    assert np.all(found.weights == 1.0) and found.truncated == ""


@pytest.mark.parametrize("text", ["a (man:1.2)", r"a \(man\)", "the " * 80 + "man", "x" * 200])
def test_a_plain_prompt_is_a_caption_whatever_it_holds(tokenizer, text):
    marked = text.replace("man", "man <|image|>") if len(text) < 80 else text
    found = encode_prompt(tokenizer, marked, plain=True)
    caption = encode_caption(tokenizer, marked)
    np.testing.assert_array_equal(found.input_ids, caption.input_ids)
    assert found.subject_tokens == caption.subject_tokens
    assert found.truncated == caption.truncated
    assert np.all(found.weights == 1.0)


@pytest.mark.parametrize(
    "prompt",
    [
        "a (man:1.3) <|image|> in the snow",
        "a (man <|image|>:1.3) in the snow",
        "a (man:1.3)<|image|> in the snow",
        "(a (man:1.3) <|image|> in the snow:1.0)",
    ],
)
def test_a_marker_binds_its_word_inside_and_behind_a_weight(tokenizer, prompt):
    found = encode_prompt(tokenizer, prompt)
    plain = tokenizer("a man in the snow", padding="max_length").input_ids
    np.testing.assert_array_equal(found.input_ids, plain)
    assert found.subject_tokens == (2,)
    np.testing.assert_array_equal(np.flatnonzero(found.weights != 1.0), [2])
    assert [prompt[start:][:3] for start in found.starts[1:3]] == ["man", "in "]


def windows_of_compel(tokenizer, text):
    pytest.importorskip("compel")
    from types import SimpleNamespace

    from compel.embeddings_provider import EmbeddingsProvider, SplitLongTextMode

    provider = EmbeddingsProvider(
        tokenizer,
        SimpleNamespace(device="cpu"),
        truncate=False,
        split_long_text_mode=SplitLongTextMode.WORDS,
    )
    ids, weights, _ = provider.get_token_ids_and_expand_weights([text], [1.0], device="cpu")
    return ids.numpy(), weights.numpy()


LONG = "a happy astronaut, on a 1234 horse! " * 12


@pytest.mark.parametrize("text", ["the " * 75, "the " * 76, LONG, "snow " + "7x" * 90, "a" * 170])
@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"])  # of Stable Diffusion 1.x and 2.x
def test_windows_are_cut_as_compel_cuts_at_words(tokenizer, text, padding):
    usual = tokenizer.pad_token
    tokenizer.pad_token = padding
    try:
        found = encode_prompt(tokenizer, text)
        expected, ones = windows_of_compel(tokenizer, text)
    finally:
        tokenizer.pad_token = usual
    np.testing.assert_array_equal(found.input_ids, expected)
    np.testing.assert_array_equal(found.weights, ones)
    assert found.truncated == ""


def test_words_stay_whole_but_where_a_window_is_too_short():
    tokens = ["a</w>", "as", "tro", "naut</w>", "in</w>", "s", "n", "o", "w", "w</w>"]
    assert window_ends(tokens, 4) == [4, 5, 9, 10]
    assert window_ends(tokens, 3) == [1, 4, 5, 8, 10]
    assert window_ends([], 3) == [0]


def test_a_marker_binds_its_word_in_its_window(tokenizer):
    prompt = "the " * 74 + "man <|image|> and " + "the " * 80 + "astronaut <|image|> (dog:2)"
    found = encode_prompt(tokenizer, prompt)
    assert len(found.input_ids) == 3 * 77
    man, astronaut = found.subject_tokens
    assert man == 75  # the last of the first window: it is not parted from its subject
    pieces = tokenizer("astronaut", add_special_tokens=False).input_ids
    # "and" and 74 times "the" fill the second window; the third begins with what is left.
    assert astronaut == 154 + 6 + len(pieces)
    assert found.input_ids[astronaut] == pieces[-1]
    (dog,) = np.flatnonzero(found.weights == 2.0)
    assert dog == astronaut + 1
    assert [found.input_ids[place] for place in (0, 77, 154)] == [tokenizer.bos_token_id] * 3
    assert found.places[74:77] == [75, 78, 79]


def test_what_is_beyond_the_last_window_is_lost_and_no_subject_may_be(tokenizer):
    found = encode_prompt(tokenizer, "the " * 299 + "man <|image|> and a dog")
    assert found.subject_tokens == (3 * 77 + 75,)
    assert (len(found.input_ids), found.truncated) == (4 * 77, "and a dog")
    message = (
        "'man', a subject's word, is token 301 of the prompt, but 300 fit into 4 windows of 77"
    )
    with pytest.raises(InputError, match=message):
        encode_prompt(tokenizer, "the " * 300 + "man <|image|>")
    with pytest.raises(InputError, match="token 76 of the prompt, but 75 fit into 77 tokens"):
        encode_prompt(tokenizer, "the " * 75 + "man <|image|>", plain=True)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("at (dawn, 10:30)", r"the weight 30 of '(dawn, 10:30)' must lie between 0 and 5; if it"),
        ("a (man:-1)", r"the weight -1 of '(man:-1)'"),
        ("a (man:5.1)", r"write \( and \), or draw with plain_prompt (--plain-prompt)"),
        ("a man (<|image|>:1.2)", r"weighs no word: put the marker's word into the parentheses"),
        ("a (man:1.2<|image|>)s", None),
        ("(<|image|> man:1.2)", "no word before it"),
        ("a (wo<|image|>man:1.2)", "is inside a word in 'a (wo<|image|>man:1.2)'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tokenizer, prompt, message):
    if message is None:  # no weight, so text
        assert np.all(encode_prompt(tokenizer, prompt).weights == 1.0)
        return
    with pytest.raises(InputError, match=re.escape(message)):
        encode_prompt(tokenizer, prompt)
