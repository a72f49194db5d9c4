"""Who is drawn after which prompts, and what is refused."""

import json
from collections import Counter

import pytest
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.evaluation.faces.protocol import make_trials, read_people, read_prompts


@pytest.fixture
def folder(tmp_path):
    """Three people: two by a picture each, one by a folder of two."""
    for name in ("bob.jpg", "ann.png", "eve/2.png", "eve/1.png", "eve/notes.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_the_protocol_is_forty_prompts_of_four_kinds_and_21_for_two():
    prompts = read_prompts()
    kinds = Counter(prompt.kind for prompt in prompts)
    assert kinds == {"accessory": 10, "style": 10, "action": 10, "context": 10, "pairs": 21}
    assert len({prompt.template for prompt in prompts}) == 61
    assert [prompt.index for prompt in prompts] == list(range(61))


def test_people_are_files_and_folders(folder):
    (folder / "people.jsonl").write_text('{"name": "ann", "word": "woman"}\n')
    people = read_people(folder, "man")
    assert [(person.name, person.word) for person in people] == [
        ("ann", "woman"),
        ("bob", "man"),
        ("eve", "man"),
    ]
    assert [file.name for file in people[2].pictures] == ["1.png", "2.png"]


def test_everybody_is_drawn_after_every_prompt_and_so_is_every_pair(folder):
    trials = make_trials(read_people(folder), read_prompts(), 4)
    assert Counter(trial.unit for trial in trials) == {
        **dict.fromkeys(("ann", "bob", "eve"), 40 * 4),
        **dict.fromkeys(("ann+bob", "ann+eve", "bob+eve"), 21 * 4),
    }
    assert len({trial.name for trial in trials}) == len(trials)


def test_words_and_markers_go_where_the_people_are(folder):
    (folder / "people.jsonl").write_text('{"name": "bob", "word": "man"}\n')
    prompts = folder / "own.json"
    own = {"people": {"x": ["a {person} {y}"]}, "pairs": ["{second}, {first}"]}
    prompts.write_text(json.dumps(own))
    trials = make_trials(read_people(folder, "woman"), read_prompts(prompts), 1)
    told = {trial.unit: (trial.caption, trial.marked) for trial in trials}
    assert told["ann"] == ("a woman {y}", "a woman <|image|> {y}")
    assert told["ann+bob"] == ("man, woman", "man <|image|>, woman <|image|>")


def test_some_pairs_are_drawn_by_the_seed(folder):
    people, prompts = read_people(folder), read_prompts()

    def pairs(count, seed):
        trials = make_trials(people, prompts, 1, count, seed)
        return {trial.unit for trial in trials if len(trial.people) == 2}

    assert pairs(0, 0) == set() and len(pairs(2, 0)) == 2
    assert pairs(1, 0) == pairs(1, 0) and len({*pairs(1, 0), *pairs(1, 1), *pairs(1, 2)}) > 1


@pytest.mark.parametrize(
    ("pictures", "pairs", "message"),
    [(0, None, "--pictures 0: must be 1"), (1, 4, "--pairs 4: 3 people make 3 pairs")],
)
def test_numbers_out_of_range_are_refused(folder, pictures, pairs, message):
    with pytest.raises(InputError, match=message):
        make_trials(read_people(folder), read_prompts(), pictures, pairs)


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"pairs": []}', '{"people": {"x": ["a person"]}}', '{"people": {"x": [3]}}',
     '{"people": {"x": ["a {person} and a {person}"]}}',
     '{"people": {"x": ["a {person}"]}, "pairs": ["a {first}"]}'],
)  # fmt: skip
def test_prompts_without_places_are_refused(tmp_path, content):
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(InputError, match="--prompts .*own.json"):
        read_prompts(tmp_path / "own.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "ann.jpg").touch(), "two entries have the name 'ann'"),
        (lambda folder: (folder / "people.jsonl").write_text("{}"), "line 1: must be"),
        (
            lambda folder: (folder / "people.jsonl").write_text('{"name": "al", "word": "man"}'),
            "no pictures of 'al'",
        ),
    ],
)
def test_people_that_cannot_be_told_are_refused(folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=message):
        read_people(folder)


def test_nobody_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_people(tmp_path / "none")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    with pytest.raises(InputError, match="has no pictures"):
        read_people(tmp_path)
