"""What weights and further windows do to embeddings, against compel, and to subjects."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.data.captions import IMAGE_MARKER
from moa_jax.sampling.program import weigh
from moa_jax.sampling.request import make_request, match
from tests.personal import MARKED, PROMPT, pixels, portrait

SUBJECTS = [portrait(1), portrait(2)]
DRAW = {"num_inference_steps": 2, "seed": 2}
LONG = "a happy astronaut, on a 1234 horse! " * 3  # 60 tokens
# Windows, prompt, and its texts with their weights.
WEIGHTED = [
    (
        1,
        "a (man in the snow:1.4) with a (red:0.5) hat and (glasses:0)",
        {"a": 1, "man in the snow": 1.4, "with a": 1, "red": 0.5, "hat and": 1, "glasses": 0},
    ),
    (
        2,
        f"a (man:1.5), {LONG * 2} (snow:1.3)",
        {"a": 1, "man": 1.5, f", {LONG * 2}": 1, "snow": 1.3},
    ),
    (
        3,
        f"(a city at night:0.7), {LONG * 3} (snow:1.3) (a (red:1.2) hat:1.1)",
        {
            "a city at night": 0.7,
            f", {LONG * 3}": 1,
            "snow": 1.3,
            "a": 1.1,
            "red": 1.2 * 1.1,
            "hat": 1.1,
        },
    ),
]


@pytest.fixture(scope="module")
def oracle(tiny_folder):
    """Compel on transformers' own text encoder."""
    pytest.importorskip("torch")
    compel = pytest.importorskip("compel")
    from compel.embeddings_provider import SplitLongTextMode
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder)
    return compel.Compel(
        pipeline.tokenizer,
        pipeline.text_encoder,
        truncate_long_prompts=False,
        split_long_text_mode=SplitLongTextMode.WORDS,
    )


@pytest.mark.parametrize(("windows", "prompt", "texts"), WEIGHTED)
def test_weighted_embeddings_are_compels_in_every_window(windows, prompt, texts, plain, oracle):
    """Of compel, the part that is one rule for every weight."""
    found = plain.embed(plain.request(prompt))
    provider = oracle.conditioning_provider
    ids, factors, _ = provider.get_token_ids_and_expand_weights([*texts], [*texts.values()], "cpu")
    expected = provider.build_weighted_embedding_tensor(ids, factors).detach().numpy()
    assert found.shape[1] == windows * 77
    np.testing.assert_allclose(found, expected, atol=2e-5)
    plainly = plain.embed(plain.request(" ".join(texts)))
    assert np.abs(found - plainly).max() > 0.1


@pytest.mark.parametrize("prompt", [WEIGHTED[1][1], LONG * 3])
def test_a_prompt_with_weights_above_1_is_what_compel_makes_of_it(prompt, plain, oracle):
    """With its own parser, which wants a weight behind the parenthesis."""
    theirs = re.sub(r":([0-9.]+)\)", r")\1", prompt)
    expected = oracle.build_conditioning_tensor(theirs).detach().numpy()
    np.testing.assert_allclose(plain.embed(plain.request(prompt)), expected, atol=2e-5)


def test_the_shorter_of_prompt_and_negative_prompt_is_padded_as_compel_does(plain, oracle):
    for prompt, negative in ((LONG * 3, "a man"), ("a man", LONG * 3)):
        request = plain.request(prompt, (), negative)
        tensors = [oracle.build_conditioning_tensor(text) for text in (prompt, negative)]
        expected = oracle.pad_conditioning_tensors_to_same_length(tensors)
        both = (plain.embed(request), plain.embed(request._replace(input_ids=request.negative_ids)))
        for found, theirs in zip(both, expected, strict=True):
            np.testing.assert_allclose(found, theirs.detach().numpy(), atol=2e-5)


def test_the_rule_by_hand():
    text, nothing = np.float32([[[2, 4], [6, 8], [1, 1]]]), np.float32([[[1, 1], [2, 2], [3, 3]]])
    found = weigh(jnp.array(text), jnp.array([[1.5, 0, 1]]), jnp.array(nothing))
    np.testing.assert_array_equal(found, [[[2.5, 5.5], [2, 2], [1, 1]]])


def test_words_without_a_weight_keep_their_embeddings_to_the_bit(plain):
    request = plain.request("a man in the (snow:1.4) at night")
    changed = plain.embed(request) != plain.embed(plain.request("a man in the snow at night"))
    np.testing.assert_array_equal(np.flatnonzero(changed[0].any(-1)), [5])


def test_a_short_prompt_without_weights_is_drawn_by_the_very_same_program(personal):
    arguments = (MARKED, SUBJECTS, "snow")
    found = personal.request(*arguments)
    expected = personal.request(*arguments, plain_prompt=True)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert len(jax.tree.leaves(found)) == 4
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found.input_ids.shape == (1, 77)
    drawn = pixels(personal(*arguments, **DRAW))
    programs = (personal._condition, personal._predict)
    before = [program._cache_size() for program in programs]
    again = pixels(personal(*arguments, plain_prompt=True, **DRAW))
    one = pixels(personal(MARKED.replace("a man", "a (man:1)"), *arguments[1:], **DRAW))
    assert [program._cache_size() for program in programs] == before
    np.testing.assert_array_equal(drawn, again)
    np.testing.assert_array_equal(drawn, one)


def test_other_weights_and_words_compile_nothing_anew(personal):
    personal("a (man:1.2) <|image|>", SUBJECTS[:1], "a (dog:0.5)", **DRAW)
    before = personal._condition._cache_size()
    personal("(a man <|image|> in the (snow:2):0.9)", SUBJECTS[:1], **DRAW)
    personal("a man <|image|>", SUBJECTS[:1], "(a woman:1.4)", **DRAW)
    assert personal._condition._cache_size() == before


def test_a_weight_shows_in_the_picture_and_a_plain_prompt_has_none(personal):
    weighted = MARKED.replace("the snow", "the (snow:1.5)")
    drawn = {
        name: pixels(personal(prompt, SUBJECTS, negative, **options, **DRAW))
        for name, (prompt, negative, options) in {
            "without": (MARKED, "dog", {}),
            "weighted": (weighted, "dog", {}),
            "negative": (MARKED, "(dog:3)", {}),
            "plain": (weighted, "dog", {"plain_prompt": True}),
        }.items()
    }
    for name, picture in drawn.items():
        for other, another in drawn.items():
            assert (name == other) or np.abs(picture - another).mean() > 0.05, (name, other)


def context(pipe, request, features):
    """What the prior and the personalized expert attend to."""
    arrays = (pipe.embed(request), features, request.subject_tokens, np.float32([500]))
    prompt = pipe.model.prompt.apply(
        {"params": pipe.params["prompt"]}, *(jnp.asarray(each) for each in arrays)
    )
    return [np.asarray(tokens[0]) for tokens in prompt.for_experts(1, ("personalized",))]


def test_a_subject_in_the_second_window_is_bound_to_its_own_word(personal):
    prompt = f"a (man:1.2) {IMAGE_MARKER} and {LONG * 2} a (woman {IMAGE_MARKER}:1.3) in the snow"
    request = personal.request(prompt, SUBJECTS)
    man, woman = request.subject_tokens[0]
    assert man < 77 < woman < 154 == request.input_ids.shape[1]
    words = personal.base.tokenizer.convert_ids_to_tokens(request.input_ids[0, [man, woman]])
    assert words == ["man</w>", "woman</w>"]
    features = personal.features(request)
    prior, bound = context(personal, request, features)
    for place, subject in ((man, 0), (woman, 1)):
        others = features.copy()
        others[0, subject] = personal.features(personal.request(MARKED, [portrait(5)] * 2))[0, 0]
        unmoved, swapped = context(personal, request, others)
        np.testing.assert_array_equal(unmoved, prior)
        np.testing.assert_array_equal(np.flatnonzero((swapped != bound).any(-1)), [place])
    # The prior sees the weighted word alone.
    np.testing.assert_array_equal(np.flatnonzero((prior != bound).any(-1)), [man, woman])
    np.testing.assert_array_equal(prior, personal.embed(request)[0])


def test_a_subject_in_the_second_window_changes_the_picture(personal):
    prompt = f"{LONG * 2} a man {IMAGE_MARKER} in the snow"
    first, second = (personal(prompt, [portrait(seed)], watch=True, **DRAW) for seed in (1, 3))
    assert np.abs(pixels(first) - pixels(second)).mean() > 0.3
    for maps in first.attention.values():
        assert np.all(maps > 0.0)


def test_without_subjects_no_word_of_any_window_is_one(personal):
    """The place of no subject moves with the length, of prompt or negative prompt."""
    for prompt, negative in ((LONG * 2, ""), (PROMPT, LONG * 2)):
        request = personal.request(prompt, (), negative)
        assert request.subject_tokens.tolist() == [[154]]


def test_requests_of_any_length_are_matched(tokenizer):
    options = {"image_size": 32, "max_subjects": 2}
    requests = [
        make_request(tokenizer, prompt, subjects, negative, **options)
        for prompt, subjects, negative in (
            ("a man", [], ""),
            (f"{LONG * 2} a (man:2) {IMAGE_MARKER}", [portrait(1)], "snow"),
            ("a dog", [], LONG * 3),
        )
    ]
    matched = match(tokenizer, requests)
    empty = tokenizer("", padding="max_length").input_ids
    for found, request in zip(matched, requests, strict=True):
        assert found.input_ids.shape == found.weights.shape == found.negative_weights.shape
        assert found.input_ids.shape == found.negative_ids.shape == (1, 3 * 77)
        size = request.input_ids.shape[1]
        np.testing.assert_array_equal(found.input_ids[0, :size], request.input_ids[0])
        np.testing.assert_array_equal(found.input_ids[0, size:], empty * (3 - size // 77))
        assert found.input_ids.dtype == found.subject_tokens.dtype == np.int32
    assert [int(each.subject_tokens[0, 0]) for each in matched] == [
        231,
        int(requests[1].subject_tokens[0, 0]),
        231,
    ]
    assert matched[1].weights.max() == 2.0 and matched[0].weights.max() == 1.0
