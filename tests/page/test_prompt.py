"""Words and bindings: what a click means, and how edits of the prompt keep it."""

import pytest

from moa_jax.data.captions import encode_caption
from moa_jax.page.prompt import carry_over, cycle, find_words, mark, read_markers, without

PROMPT = "a man, and a woman's dog!"


def test_words_are_what_a_person_would_click():
    prompt = "a blue-haired man's  dog (old), déjà-vu 2nd"
    words = find_words(prompt)
    assert [word.text for word in words] == "a blue-haired man's dog old déjà-vu 2nd".split()
    assert all(prompt[word.start : word.end] == word.text for word in words)


def test_a_click_goes_through_everybody_and_back_to_nobody():
    seen, bindings = [], {4: 1}
    for _ in range(4):
        bindings = cycle(bindings, 1, subjects=2)
        seen.append(bindings)
    assert seen == [{4: 1, 1: 1}, {4: 1, 1: 2}, {4: 1}, {4: 1, 1: 1}]
    assert cycle({}, 0, subjects=0) == {}


def test_markers_stand_after_their_words_in_the_order_of_the_prompt():
    marked, subjects = mark(PROMPT, {4: 1, 1: 2})
    assert marked == "a man <|image|>, and a woman's <|image|> dog!"
    assert subjects == [2, 1]
    assert mark(PROMPT, {}) == (PROMPT, [])


def test_marked_and_read_again_is_the_same():
    marked, _ = mark(PROMPT, {1: 1, 4: 2})
    assert read_markers(marked) == (PROMPT, {1: 1, 4: 2})
    assert read_markers("<|image|>a man<|image|>") == ("a man", {1: 2})
    assert read_markers("no marker") == ("no marker", {})


def test_the_tokenizer_finds_the_words_that_were_clicked(tokenizer):
    plain = encode_caption(tokenizer, PROMPT)
    marked = encode_caption(tokenizer, mark(PROMPT, {1: 1, 4: 2})[0])
    assert marked.input_ids.tolist() == plain.input_ids.tolist()
    words = [tokenizer.decode([int(marked.input_ids[at])]).strip() for at in marked.subject_tokens]
    assert words == ["man", "woman"]


@pytest.mark.parametrize(
    ("before", "after", "bindings", "kept"),
    [
        ("a man and a woman", "an old man and a woman", {1: 1, 4: 2}, {2: 1, 5: 2}),
        ("a man and a woman", "a man with a woman", {1: 1, 4: 2}, {1: 1, 4: 2}),
        ("a man and a woman", "a woman", {1: 1, 4: 2}, {1: 2}),
        ("a man and a man", "a man and a tall man", {1: 1, 4: 2}, {1: 1, 5: 2}),
        ("a man reads", "a mane reads", {1: 1}, {1: 1}),  # while it is typed
        ("a man reads", "a w reads", {1: 1}, {1: 1}),  # selected and typed over
        ("a oldman reads", "a old man reads", {1: 1}, {2: 1}),  # a word typed before it
        ("a man reads", "the snow falls softly", {1: 1}, {}),
        ("a man reads", "", {1: 1}, {}),
        ("a Man reads", "a man, who reads", {1: 1}, {1: 1}),
    ],
)
def test_words_keep_who_they_are_when_the_prompt_is_edited(before, after, bindings, kept):
    assert carry_over(before, after, bindings) == kept


def test_a_prompt_typed_letter_by_letter_loses_nobody():
    start, bindings = "a man reading", {1: 1}
    for added in range(1, len("tall ") + 1):
        text = "a " + "tall "[:added] + "man reading"
        bindings, start = carry_over(start, text, bindings), text
    assert [find_words(start)[word].text for word in bindings] == ["man"]


def test_whoever_leaves_takes_the_words_along_and_the_others_move_up():
    assert without({1: 1, 4: 2, 6: 3}, 2) == {1: 1, 6: 2}
