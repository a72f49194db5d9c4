"""Time-lapse: a frame at a word is that word's picture; what follows the words stays in place."""

import re

import numpy as np
import pytest

from moa_jax.applications import timelapse
from moa_jax.applications.timelapse import aligned
from moa_jax.errors import InputError
from tests.personal import pixels, portrait

DRAW = {"num_inference_steps": 3, "seed": 4}
PROMPT = "a {word} <|image|> in the snow with a woman <|image|>"
SUBJECTS = [portrait(1), portrait(2)]


@pytest.mark.slow
def test_frames_at_words_of_one_length_are_the_pictures_of_their_prompts(personal):
    words = ["man", "woman", "kid"]
    frames = pixels(timelapse(personal, PROMPT, words, SUBJECTS, frames=5, **DRAW))
    for place, word in zip((0, 2, 4), words, strict=True):
        alone = pixels(personal(PROMPT.replace("{word}", word), SUBJECTS, **DRAW))[0]
        assert np.abs(frames[place] - alone).max() <= 1
    between, jump = np.abs(frames[1] - frames[0]).mean(), np.abs(frames[2] - frames[0]).mean()
    assert 0 < between < jump


def test_longer_words_leave_what_follows_in_its_place(personal):
    words = ["kid", "man in the snow"]  # one token and four
    requests = [personal.request(PROMPT.replace("{word}", word), SUBJECTS) for word in words]
    short, long = aligned(personal, requests, PROMPT, words)
    np.testing.assert_array_equal(short.subject_tokens, long.subject_tokens)
    (first, second), plain = long.subject_tokens[0], personal.embed(requests[0])[0]
    np.testing.assert_array_equal(long.text, personal.embed(requests[1]))
    # The short word fills the place of the long one, and the rest is pushed back.
    word = plain[requests[0].subject_tokens[0, 0]]
    np.testing.assert_array_equal(short.text[0, first - 3 : first + 1], np.tile(word, (4, 1)))
    np.testing.assert_array_equal(
        short.text[0, first + 1 : second + 1], plain[first - 2 : second - 2]
    )


def test_a_subject_before_the_word_keeps_its_place(personal):
    prompt, words = (
        "a woman <|image|> and a {word} <|image|> in the snow",
        ["kid", "man in the snow"],
    )
    requests = [personal.request(prompt.replace("{word}", word), SUBJECTS) for word in words]
    short, long = aligned(personal, requests, prompt, words)
    np.testing.assert_array_equal(short.subject_tokens, requests[1].subject_tokens)
    np.testing.assert_array_equal(long.text, personal.embed(requests[1]))
    place = short.subject_tokens[0, 1]
    word = personal.embed(requests[0])[0, requests[0].subject_tokens[0, 1]]
    np.testing.assert_array_equal(short.text[0, place - 3 : place + 1], np.tile(word, (4, 1)))


def test_words_and_prompts_with_punctuation_and_markers(personal):
    """A word may bring its marker with it, and end in what is no letter."""
    prompt, words = "a man <|image|>, ({word}) in the snow", ["kid <|image|>!", "old man <|image|>"]
    requests = [personal.request(prompt.replace("{word}", word), SUBJECTS) for word in words]
    with pytest.raises(InputError, match="a marker takes a word at another place"):
        aligned(personal, requests, prompt, words)
    words[0] = "kid <|image|>"
    requests = [personal.request(prompt.replace("{word}", word), SUBJECTS) for word in words]
    short, long = aligned(personal, requests, prompt, words)
    np.testing.assert_array_equal(short.subject_tokens, long.subject_tokens)
    np.testing.assert_array_equal(long.text, personal.embed(requests[1]))
    place, plain = short.subject_tokens[0, 1], personal.embed(requests[0])[0]
    # "kid" stands twice, and the bracket behind it is pushed back.
    np.testing.assert_array_equal(short.text[0, place - 1 : place + 2], plain[[5, 5, 6]])


def test_words_with_weights_in_prompts_of_several_windows(personal):
    """What follows the words may lie in another window for each of them; it takes one place."""
    middle = "a happy astronaut, on a 1234 horse! " * 4
    prompt = f"a ({{word}} <|image|>:1.2), {middle} with a woman <|image|> in the (snow:0.5)"
    words = ["kid", "man in the (rain:1.5)"]
    requests = [personal.request(prompt.replace("{word}", word), SUBJECTS) for word in words]
    short, long = aligned(personal, requests, prompt, words)
    assert short.text.shape == long.text.shape == (1, 2 * 77, 32)
    np.testing.assert_array_equal(short.subject_tokens, long.subject_tokens)
    np.testing.assert_array_equal(long.subject_tokens, requests[1].subject_tokens)
    np.testing.assert_array_equal(long.text, personal.embed(requests[1]))
    own, plain = requests[0].subject_tokens[0], personal.embed(requests[0])[0]
    kid, woman = long.subject_tokens[0]
    np.testing.assert_array_equal(short.text[0, kid - 3 : kid + 1], np.tile(plain[own[0]], (4, 1)))
    np.testing.assert_array_equal(short.text[0, woman], plain[own[1]])
    for start in (0, 77):  # begin and end tokens stay in their places
        np.testing.assert_array_equal(short.text[0, start], plain[start])
    ids, end = requests[1].input_ids[0], personal.base.tokenizer.eos_token_id
    first = np.flatnonzero(ids == end)[0], np.flatnonzero(requests[0].input_ids[0] == end)[0]
    np.testing.assert_array_equal(short.text[0, first[0]], plain[first[1]])


def test_frames_at_words_of_which_one_has_a_weight(personal):
    words = ["man", "(woman:1.5)"]
    frames = pixels(timelapse(personal, PROMPT, words, SUBJECTS, **DRAW))
    alone = [pixels(personal(PROMPT.replace("{word}", w), SUBJECTS, **DRAW))[0] for w in words]
    assert np.abs(frames - np.stack(alone)).max() <= 1
    assert np.abs(frames[0] - frames[1]).mean() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "a man <|image|>"}, "write {word} once"),
        ({"words": ["kid"]}, "give two or more"),
        ({"frames": 1}, "frames=1"),
    ],
)
def test_a_wrong_argument_is_named(options, message, personal):
    arguments = {"prompt": PROMPT, "words": ["kid", "man"], "subjects": SUBJECTS, **options}
    with pytest.raises(InputError, match=re.escape(message)):
        timelapse(personal, **arguments)
