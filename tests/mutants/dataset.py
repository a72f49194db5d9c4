"""Faults in what becomes of photographs: nouns, places, words, copies, pairs, the journal."""

NOUNS, BINDING = "moa_jax/dataset/nouns.py", "moa_jax/dataset/binding.py"
QUALITY, PAIRING = "moa_jax/dataset/quality.py", "moa_jax/dataset/pairing.py"
JOURNAL, SOURCE = "moa_jax/dataset/journal.py", "moa_jax/dataset/source.py"
FLORENCE2, SAM2 = "moa_jax/dataset/florence2.py", "moa_jax/dataset/sam2.py"
T = "tests/dataset/test_"

MUTATIONS = [
    (
        "the noun is the phrase's first word",
        NOUNS,
        "word, (first, last) = kept[-1]",
        "word, (first, last) = kept[0]",
        f"{T}nouns.py::test_the_noun_is_what_the_phrase_is_about",
    ),
    (
        "a word is written that means another occurrence",
        BINDING,
        "if find_word(caption, word, seen[word.lower()] + 1) == noun.end:",
        "if find_word(caption, word, seen[word.lower()] + 1):",
        f"{T}binding.py::test_words_mean_the_noun_that_they_name",
    ),
    (
        "a phrase in two places takes the first",
        BINDING,
        "if count > 1:",
        "if count > 9:",
        f"{T}binding.py::test_a_phrase_found_in_two_places_is_ambiguous",
    ),
    (
        "a copy of a copy is one of a picture that was dropped",
        QUALITY,
        "found[place] = places[int(near[0])]\n        else:\n            kept",
        "found[place] = places[int(near[0])]\n        if True:\n            kept",
        f"{T}quality.py::test_duplicates_are_those_of_kept_pictures_only",
    ),
    (
        "two faces at the threshold are paired",
        PAIRING,
        "2 - 2 * block",
        "1.9 - 2 * block",
        f"{T}pairing.py::test_faces_are_paired_below_the_threshold_and_never_from_it_on",
    ),
    (
        "both people of a picture are paired with one face",
        PAIRING,
        "back is not None and back[1] == one",
        "back is not None",
        f"{T}pairing.py::test_of_one_picture_only_the_nearest_is_taken",
    ),
    (
        "a line that a kill cut is kept",
        JOURNAL,
        "if len(whole) < len(lines):",
        "if len(whole) > len(lines):",
        f"{T}journal.py::test_a_kill_at_any_byte_costs_the_last_line_only",
    ),
    (
        "a row by hand may be that of an older mask",
        SOURCE,
        "files = [file, *(folder / each for each in files_of(by_hand or {}))]",
        "files = [file]",
        f"{T}source.py::test_the_stamp_changes_with_all_that_is_known_of_a_picture",
    ),
    (
        "a phrase is looked for from the caption's start",
        FLORENCE2,
        "pattern.search(plain, after)",
        "pattern.search(plain, 0)",
        f"{T}florence2.py::test_phrases_are_found_in_their_caption",
    ),
    (
        "boxes are scaled by the wrong side",
        SAM2,
        "[side / image.width, side / image.height]",
        "[side / image.height, side / image.width]",
        f"{T}sam2.py::test_each_mask_is_that_of_its_box",
    ),
]
