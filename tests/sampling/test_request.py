"""What a request refuses by name, without a network."""

import re

import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.sampling.request import make_request
from tests.personal import portrait


@pytest.fixture
def request_of(tokenizer):
    def make(prompt, subjects=(), negative_prompt="", max_subjects=2):
        sizes = {"image_size": 32, "max_subjects": max_subjects}
        return make_request(tokenizer, prompt, subjects, negative_prompt, **sizes)

    return make


def test_a_marker_in_the_negative_prompt_is_refused_by_name(request_of):
    for negative in ("a dog <|image|>", "<|image|> a dog", "a <|image|>, <|image|>"):
        message = re.escape(f"negative_prompt={negative!r} has the marker <|image|>")
        with pytest.raises(InputError, match=message):
            request_of("a man <|image|>", [portrait(1)], negative)


def test_which_of_several_prompts_does_not_fit_its_subjects_is_told(request_of):
    with pytest.raises(InputError, match="the prompt 'a dog' has 0 .* and 1 subject"):
        request_of("a dog", [portrait(1)])


def test_the_row_of_a_prompt_with_punctuation(request_of, tokenizer):
    request = request_of("a man's <|image|> dog, a woman, <|image|>", [portrait(1), portrait(2)])
    words = tokenizer.convert_ids_to_tokens(request.input_ids[0, request.subject_tokens[0]])
    assert words == ["man</w>", "woman</w>"]
    plain = tokenizer("a man's dog, a woman,", padding="max_length").input_ids
    np.testing.assert_array_equal(request.input_ids[0], plain)
