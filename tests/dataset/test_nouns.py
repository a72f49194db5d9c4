"""The noun of a phrase: cases worked out by hand."""

import pytest

from moa_jax.dataset.nouns import (
    ANIMALS,
    PEOPLE,
    Noun,
    find_noun,
    is_english,
    is_one_of,
    is_plural,
    parse_wanted,
    speaks_of,
)

NOUNS = {
    "a man": "man",
    "man": "man",
    "An old man in a red coat with his dog": "man",
    "the woman in red": "woman",
    "the woman in black and white": "woman",
    "a black and white dog": "dog",
    "a young and tall woman": "woman",
    "a young, smiling man": "man",
    "a man, smiling": "man",
    "a man (on the left)": "man",
    "a smiling woman": "woman",
    "a woman smiling": "woman",
    "a man wearing a hat and a tie": "man",
    "a child playing soccer": "child",
    "a man dressed in red": "man",
    "the boy who holds a ball": "boy",
    "a man's hat": "hat",
    "the man’s": "man",
    "the man's dog": "dog",
    "Dr. Smith's nurse": "nurse",
    "a ten-year-old boy": "boy",
    "a police officer": "officer",
    "the baseball player number 12": "player",
    "player 12": "player",
    "a tall building": "building",
    "a woman in a dress": "woman",
    "another person": "person",
    '"a man!"': "man",
    "Ein Baby": "baby",
}
SEVERAL = """
two men | men | people | the two of them | a group of people | a couple | one of the men
both girls | a man and his dog | a man and a woman | man and woman | a woman or a man | firemen
several kids | ladies | a crowd | many tourists | a pair of glasses
""".replace("\n", "|")


@pytest.mark.parametrize(("phrase", "noun"), NOUNS.items())
def test_the_noun_is_what_the_phrase_is_about(phrase, noun):
    caption = f"See: {phrase}."
    found = find_noun(caption, 5, 5 + len(phrase))
    assert isinstance(found, Noun), found
    assert (found.text, caption[found.start : found.end].lower()) == (noun, noun)


@pytest.mark.parametrize("phrase", [each.strip() for each in SEVERAL.split("|") if each.strip()])
def test_several_things_have_no_single_noun(phrase):
    assert find_noun(phrase, 0, len(phrase)) == f"{phrase!r} names several"


@pytest.mark.parametrize("phrase", ["he", "it", "the", "in", "...", ""])
def test_some_phrases_have_none(phrase):
    assert find_noun(phrase, 0, len(phrase)) == f"{phrase!r} has no noun"


def test_plurals():
    assert all(map(is_plural, "men women children cars glasses ladies policemen".split()))
    assert not any(map(is_plural, "man dress bus waitress glass specimen iris".split()))


def test_a_compound_counts_as_its_last_part():
    assert is_one_of("policewoman", PEOPLE) and is_one_of("fireman", frozenset({"man"}))
    assert is_one_of("taxi-driver", PEOPLE) and is_one_of("cowboy", PEOPLE)
    assert not is_one_of("snowman", PEOPLE) and not is_one_of("dog", PEOPLE)
    assert is_one_of("car", None)


def test_a_phrase_speaks_of_people_in_the_plural_too():
    for phrase in ("two men", "People", "the ladies", "a group of tourists", "her children"):
        assert speaks_of(phrase, PEOPLE), phrase
    for phrase in ("two cars", "his dogs", "a menu"):
        assert not speaks_of(phrase, PEOPLE), phrase


def test_names_of_lists_stand_for_their_nouns():
    assert parse_wanted("people, animals") == PEOPLE | ANIMALS
    assert parse_wanted("people,Car") == PEOPLE | {"car"}
    assert parse_wanted("people,all") is None


def test_other_languages_are_told_from_english():
    assert is_english("a red car on the road") and is_english("A man.") and is_english("Kids")
    for caption in (
        "un homme et son chien",
        "eine Frau im roten Kleid",
        "男人和他的狗",
        "son chat",
    ):
        assert not is_english(caption), caption
