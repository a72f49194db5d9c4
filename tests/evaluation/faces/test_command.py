"""`python -m moa_jax.evaluation faces`, from people and weights to the report, on the toy world."""

import json

import jax
import pytest

from moa_jax.evaluation.__main__ import main
from moa_jax.evaluation.faces import command, drawing
from moa_jax.sampling.from_options import load_networks
from moa_jax.toyworld import WEIGHTS
from moa_jax.toyworld.pictures import portrait
from tests.faces.photos import astronaut

PROMPTS = {
    "people": {"context": ["a {person} on the beach", "a {person} in the garden"]},
    "pairs": ["a {first} and a {second} on the beach"],
}
FAKE = "tests.evaluation.faces.fake:Colours"


@pytest.fixture(scope="module")
def load():
    """Load each pipeline once: its programs are traced once."""
    loaded = {}

    def load(options):
        if options.moa not in loaded:
            loaded[options.moa] = load_networks(options)
        return loaded[options.moa]

    return load


@pytest.fixture
def faces(tmp_path, monkeypatch, load):
    """Call the command on three drawn people; options given again overrule."""
    monkeypatch.setattr(command, "load_networks", load)
    one = jax.local_devices()[:1]
    monkeypatch.setattr(drawing.jax, "local_devices", lambda: one)
    (tmp_path / "people").mkdir()
    for seed, word in ((3, "woman"), (4, "man"), (5, "kid")):
        portrait(seed, word).save(tmp_path / "people" / f"{word}.png")
    words = [json.dumps({"name": word, "word": word}) for word in ("woman", "man", "kid")]
    (tmp_path / "people" / "people.jsonl").write_text("\n".join(words))
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    given = {"base": WEIGHTS / "base", "people": tmp_path / "people"}
    given |= {"prompts": tmp_path / "prompts.json", "out": tmp_path / "out"}
    with_moa = ["--moa", str(WEIGHTS / "moa")]
    options = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    options += ["--steps", "4", "--pictures", "1", "--batch-size", "2"]
    return lambda *more, moa=True: main(["faces", *options, *(with_moa if moa else []), *more])


@pytest.mark.slow
def test_people_are_drawn_measured_and_reported(faces, tmp_path, capsys, monkeypatch):
    judge = ("--recognizer", FAKE, "--recognizer", f"{FAKE}(faces=2, name='two')")
    stops = iter([None, KeyboardInterrupt])  # as Ctrl-C does, after the first batch
    write = drawing._write

    def stopped(*given):
        if next(stops, None):
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr(drawing, "_write", stopped)
    assert faces(*judge) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    (drawn,) = (tmp_path / "out").rglob("*.png")
    before = drawn.stat().st_mtime_ns
    monkeypatch.setattr(drawing, "_write", write)
    assert faces(*judge) == 0
    assert drawn.stat().st_mtime_ns == before
    results = json.loads((tmp_path / "out/results.json").read_text())
    names = [each["name"] for each in results["pictures"]]
    assert len(names) == 3 * 2 + 3 and "man+woman/pairs-00-0" in names
    assert [(row["who"], row["recognizer"]) for row in results["rows"]] == [
        ("one person", "colours"), ("two people", "colours"),
        ("one person", "two"), ("two people", "two"),
    ]  # fmt: skip
    alone, pairs, _, both = results["rows"]
    assert 0 < alone["identity"]["mean"] < 1 and pairs["no_face"]["mean"] == 1
    assert both["no_face"]["mean"] == 0 and 1 < both["distance"]["mean"] < 2
    for name in ("report.md", "people.png", "pairs.png"):
        assert (tmp_path / "out" / name).is_file()
    assert "identity" in capsys.readouterr().out
    monkeypatch.setattr(command, "compare", lambda *_: pytest.fail("measured again"))
    assert faces(*judge) == 0
    again = json.loads((tmp_path / "out/results.json").read_text())
    assert again == results
    assert faces(*judge, "--guidance-scale", "3") == 2
    assert "drawn by other weights or settings than this command's" in capsys.readouterr().err


def test_a_drawn_person_has_no_face_to_dlib_and_counts_0(faces, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    astronaut().save(photos / "astronaut.jpg")
    assert faces("--people", str(photos), "--word", "woman") == 0
    (row,) = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert row["recognizer"] == "dlib" and "CC0" in row["licence"] and row["pictures"] == 2
    assert row["identity"]["mean"] == 0 and row["no_face"]["mean"] == 1
    assert row["identity"]["low"] is None  # one person
    assert "| one person | dlib | code: Boost" in (tmp_path / "out/report.md").read_text()


@pytest.mark.slow  # two runs; tests/evaluation/faces/test_report.py compares numbers
def test_weights_are_compared_with_the_prior(faces, tmp_path, capsys):
    judge = ("--recognizer", FAKE, "--pairs", "0")
    prior = str(tmp_path / "prior")
    assert faces(*judge, "--out", prior, moa=False) == 0
    assert faces(*judge) == 0
    folders = (prior, str(tmp_path / "out"))
    assert main(["faces", "--compare", *folders, "--out", str(tmp_path / "versus")]) == 0
    assert "no MoA on" in capsys.readouterr().out
    page = (tmp_path / "versus/versus.md").read_text()
    assert "| one person, colours: identity | 0." in page and "Wilcoxon p" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--people", "nowhere"], "--people 'nowhere': there is no such folder"),
        (["--recognizer", "dlip"], "--recognizer='dlip': must be dlib, facenet"),
        (["--recognizer", FAKE, "--recognizer", FAKE], "two are called 'colours'"),
        (["--pictures", "0"], "--pictures 0: must be 1 or more"),
        (["--recognizer", "dlib"], "dlib finds no face in this reference"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(
    faces, capsys, options, message, monkeypatch
):
    monkeypatch.setattr(command, "load_networks", lambda _: pytest.fail("loaded"))
    assert faces(*options) == 2
    assert message in capsys.readouterr().err


def test_what_is_missing_in_the_command_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["faces", "--base", "b"])
    assert "needs --people, --out, or --compare A B" in capsys.readouterr().err
