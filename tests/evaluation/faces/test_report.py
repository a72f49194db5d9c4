"""The tables, the JSON and the sheets, from numbers that are given; and two runs compared."""

import json

import pytest
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.evaluation.faces.protocol import Person, Prompt, Trial
from moa_jax.evaluation.faces.report import picture_record, write_report, write_sheets
from moa_jax.evaluation.faces.versus import read_results, versus
from tests.evaluation.faces.fake import Colours

RUN = {"base": "b", "moa": "m", "seed": 0, "clip": None, "fingerprints": {"unet": "secret"}}
IDENTITY = {"ann": (0.2, 0.4), "bob": (0.6, 0.6), "eve": (0.9, 0.5)}


def people(tmp_path):
    found = []
    for name in IDENTITY:
        file = tmp_path / f"{name}.png"
        Image.new("RGB", (30, 40), "red").save(file)
        found.append(Person(name, "man", (file,)))
    return found


def likeness(identity, missing=0):
    distance = None if missing else 1 - identity
    found = {"faces": 1, "missing": missing, "identity": identity, "centred": identity / 2}
    return {"colours": {**found, "distance": distance, "same": identity > 0.5}}


def records(tmp_path, more=0.0, prompt=0.3):
    prompts = [Prompt("a {person}", "style", 0, 0), Prompt("the {person}", "action", 0, 1)]
    found = []
    for person in people(tmp_path):
        for each, identity in zip(prompts, IDENTITY[person.name], strict=True):
            trial = Trial((person,), each, 0)
            found.append(picture_record(trial, likeness(identity + more), prompt))
    ann, bob, _ = people(tmp_path)
    pair = Trial((ann, bob), Prompt("a {first} and a {second}", "pairs", 0, 2), 0)
    return [*found, picture_record(pair, likeness(0.0, missing=1), prompt)]


def test_a_row_is_the_mean_over_people_with_who_judged_and_under_which_licence(tmp_path):
    rows = write_report(tmp_path, RUN, records(tmp_path), [Colours()])
    one, two = rows
    assert one["identity"]["mean"] == pytest.approx((0.3 + 0.6 + 0.7) / 3)
    assert one["identity"]["low"] < one["identity"]["mean"] < one["identity"]["high"]
    assert one["centred"]["mean"] == pytest.approx(one["identity"]["mean"] / 2)
    assert one["same"]["mean"] == pytest.approx((0 + 1 + 0.5) / 3)
    assert one["no_face"]["mean"] == 0 and one["kinds"]["style"]["identity"]["mean"] == (
        pytest.approx((0.2 + 0.6 + 0.9) / 3)
    )
    assert two["no_face"]["mean"] == 1 and two["distance"] is None
    page = (tmp_path / "report.md").read_text()
    assert "| one person | colours | CC0 | 6 | 0.533 (" in page
    assert "| two people | colours | CC0 | 1 | 0.000 " in page
    assert "seed: 0" in page and "secret" not in page and "clip" not in page
    assert "| one person | colours | style | 0.567 | 0.000 | 0.300 |" in page
    assert "Nobody published at which distance" in page and "was not measured" not in page
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == rows


def test_what_was_not_measured_is_said(tmp_path):
    write_report(tmp_path, RUN, records(tmp_path, prompt=None), [Colours()])
    page = (tmp_path / "report.md").read_text()
    assert "The prompt was not measured: that takes a complete CLIP" in page
    assert page.count("| – |") >= 2


def test_sheets_show_references_and_drawings(tmp_path):
    trials = [
        Trial((person,), Prompt("a {person}", kind, number, 0), picture)
        for person in people(tmp_path)
        for kind in ("style", "action")
        for number in range(2)
        for picture in range(2)
    ]
    drawn = tmp_path / "drawn.png"
    Image.new("RGB", (64, 64), "blue").save(drawn)
    asked = []
    write_sheets(tmp_path, trials, lambda trial: asked.append(trial.name) or drawn)
    assert asked[:2] == ["ann/style-00-0", "ann/action-00-0"] and len(asked) == 6
    sheet = Image.open(tmp_path / "people.png").convert("RGB")
    colours = {colour: count for count, colour in sheet.getcolors(sheet.width * sheet.height)}
    # Three references of 120 x 160 pixels, and six drawings of 160 x 160.
    assert colours[0, 0, 255] == pytest.approx(6 * 160 * 160, rel=0.05)
    assert colours[255, 0, 0] == pytest.approx(3 * 120 * 160, rel=0.05)
    assert not (tmp_path / "pairs.png").exists()


def measured(folder, more=0.0, **options):
    folder.mkdir()
    write_report(folder, RUN, records(folder, more, **options), [Colours()])
    return read_results(folder)


def test_two_runs_are_compared_in_every_measure(tmp_path):
    first, second = measured(tmp_path / "a"), measured(tmp_path / "b", 0.1)
    rows = {row[0]: row[1:] for row in versus(first, second)}
    one = rows["one person, colours: identity"]
    assert one == ("0.533", "0.633", "+0.100 (+0.100 to +0.100)", "3/0", "0.25", "0.25")
    assert rows["one person, colours: distance"][2].startswith("-0.100")
    assert rows["one person, colours: prompt"][3:] == ("0/0", "1", "1")
    assert rows["two people, colours: no face"][-2:] == ("–", "–")
    assert "two people, colours: distance" not in rows


def test_a_measure_of_one_run_alone_is_not_compared(tmp_path):
    first, second = measured(tmp_path / "a"), measured(tmp_path / "b", prompt=None)
    assert not [row for row in versus(first, second) if "prompt" in row[0]]


def test_runs_of_other_pictures_or_judges_are_refused(tmp_path):
    first, second = measured(tmp_path / "a"), measured(tmp_path / "b")
    fewer = {**second, "pictures": second["pictures"][1:]}
    with pytest.raises(InputError, match="1 picture.* in one run only.* such as ann/style-00-0"):
        versus(first, fewer)
    other = {**second, "rows": [{"recognizer": "dlib", "source": "there"}]}
    with pytest.raises(InputError, match="judged by colours and by dlib"):
        versus(first, other)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match="--compare: .*results.json cannot be read"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"format": 0}')
    with pytest.raises(InputError, match="of another version"):
        read_results(tmp_path)
