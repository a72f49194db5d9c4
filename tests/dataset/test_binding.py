"""From phrases with boxes to subjects, and how their words are written."""

from pathlib import Path

import pytest

from moa_jax.data.record import find_subjects
from moa_jax.dataset.binding import MOST_TOKENS, bind, distinct, name_words, overlap, shorten
from moa_jax.dataset.models import Phrase
from moa_jax.dataset.nouns import PEOPLE, find_noun
from tests.dataset.recorded import ANSWERS, Recorded

LEFT, RIGHT = (0.0, 0.0, 40.0, 100.0), (60.0, 0.0, 100.0, 100.0)
NEARLY_LEFT = (1.0, 1.0, 40.0, 99.0)


def phrases(caption, found):
    """Each phrase at its next occurrence."""
    made, after = [], 0
    for text, *boxes in found:
        start = caption.index(text, after)
        made.append(Phrase(start, start + len(text), tuple(boxes)))
        after = start + 1
    return made


def bound(caption, *found, wanted=PEOPLE):
    binding = bind(caption, phrases(caption, found), wanted)
    words = [caption[each.noun.start : each.noun.end] for each in binding.subjects]
    return list(zip(words, [each.box for each in binding.subjects], strict=True)), binding.left_out


def test_each_person_is_bound_to_the_one_box_of_its_phrase():
    caption = "An old man in a red coat beside a woman with her dog."
    found = [("An old man in a red coat", LEFT), ("a woman", RIGHT), ("her dog", NEARLY_LEFT)]
    assert bound(caption, *found) == ([("man", LEFT), ("woman", RIGHT)], ())


def test_a_phrase_found_in_two_places_is_ambiguous():
    left_out = ("ambiguous: 'A man' was found in 2 places",)
    assert bound("A man by a wall.", ("A man", LEFT, RIGHT)) == ([], left_out)
    assert bound("A man by a wall.", ("A man", LEFT, NEARLY_LEFT)) == ([("man", LEFT)], ())


def test_two_phrases_may_be_alike():
    caption = "A man and a woman look at a man."
    found = [("A man", LEFT), ("a man", RIGHT)]
    binding = bind(caption, phrases(caption, found), PEOPLE)
    assert [each.noun.end for each in binding.subjects] == [5, 31]


def test_nested_phrases_are_one_subject():
    caption = "a man in a long coat"
    assert bound(caption, ("a man in a long coat", LEFT), ("man", NEARLY_LEFT))[0] == [
        ("man", LEFT)
    ]
    assert bound(caption, ("a man in a long coat", LEFT), ("man", RIGHT))[1]


def test_a_thing_that_is_named_again_keeps_its_first_word():
    caption = "A man sits. The man reads."
    assert bound(caption, ("A man", LEFT), ("The man", NEARLY_LEFT)) == ([("man", LEFT)], ())


def test_two_nouns_at_one_place_contradict_each_other():
    left_out = ("ambiguous: 'A man' and 'a woman' are at one place",)
    assert bound("A man, a woman.", ("A man", LEFT), ("a woman", NEARLY_LEFT)) == ([], left_out)


def test_only_phrases_about_people_are_told_of():
    assert bound("Two cars and men.", ("Two cars", LEFT, RIGHT)) == ([], ())
    several = ("ambiguous: 'Two men' names several",)
    assert bound("Two men by cars.", ("Two men", LEFT, RIGHT)) == ([], several)


def test_a_caption_in_another_language_is_told():
    assert "not English" in bound("un homme et son chien", ("un homme", LEFT))[1][0]


def test_a_word_past_what_clip_reads_is_left_out():
    near = "red, " * 36 + "a man"
    far = "red, " * 38 + "a man"
    assert bound(near, ("a man", LEFT))[0] == [("man", LEFT)]
    assert 2 * 36 + 2 <= MOST_TOKENS < 2 * 38 + 2
    assert "far in the caption" in bound(far, ("a man", LEFT))[1][0]


def test_all_nouns_may_be_wanted():
    assert bound("a red car", ("a red car", LEFT), wanted=None) == ([("car", LEFT)], ())


@pytest.mark.parametrize("size", ANSWERS)
def test_the_recorded_captions(size):
    expected = {
        (512, 512): ["woman"],
        (510, 512): [],
        (1024, 512): ["woman", "man"],
        (451, 300): [],
        (600, 400): [],
        (640, 427): [],
    }
    captions, _ = ANSWERS[size]

    class Sized:
        pass

    picture = Sized()
    picture.size = size
    binding = bind(captions[0], Recorded().ground(picture, captions[0]), PEOPLE)
    assert [each.noun.text for each in binding.subjects] == expected[size]


@pytest.mark.parametrize(
    ("caption", "ends", "words"),
    [
        ("a man and a dog", [5, 15], ["man", "dog"]),
        ("a man and a man", [5, 15], ["man", "man"]),
        ("a man and a man", [15], ["and a man"]),
        ("an old man and a young man", [26], ["young man"]),
        ("Man beside man", [14], ["beside man"]),
        ("a woman's dog and a woman", [7, 25], ["woman", "woman"]),
        ("a dog-man, a man", [16], ["a man"]),
        ("the man of the man", [18], ["of the man"]),
    ],
)
def test_words_mean_the_noun_that_they_name(caption, ends, words):
    nouns = [find_noun(caption, caption.rfind(" ", 0, end) + 1, end) for end in ends]
    assert name_words(caption, nouns) == words
    entries = [{"mask": "m", "word": word} for word in words]
    subjects, faults = find_subjects(caption, entries, str, Path)  # as training reads
    assert not faults and [subject.end for subject in subjects] == ends


def test_long_captions_keep_whole_sentences():
    sentence = "One two three four five six seven eight nine ten."
    assert shorten(" ".join([sentence] * 7)) == " ".join([sentence] * 5)
    assert shorten("word " * 80 + ". More.") == "word " * 80 + "."


def test_overlap_is_shared_area_over_all_area():
    assert overlap((0.0, 0.0, 2.0, 2.0), (1.0, 0.0, 3.0, 2.0)) == pytest.approx(2 / 6)
    assert overlap((0.0, 0.0, 1.0, 1.0), (2.0, 2.0, 3.0, 3.0)) == 0
    assert overlap((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)) == 0
    assert distinct([LEFT, NEARLY_LEFT, RIGHT]) == [LEFT, RIGHT]
