"""The paired mode: each person is also named on the other picture that shows the same person."""

import json

import numpy as np

from moa_jax.data.check import check_records
from moa_jax.data.examples import read_record
from moa_jax.data.records import open_records
from moa_jax.toyworld.world.scenes import training_scene, twin, write_data


def read(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_twins_are_the_same_people_in_another_context():
    for index in range(40):
        one, other = training_scene(3, index), training_scene(3, twin(index))
        assert one.people == other.people and one.seed != other.seed
        assert twin(twin(index)) == index != twin(index)
    contexts = [
        (training_scene(3, i).context, training_scene(3, twin(i)).context) for i in range(40)
    ]
    assert 0.4 < np.mean([one.pose != other.pose for one, other in contexts]) < 0.9


def test_references_are_the_twins_and_all_else_stays_the_same(tmp_path):
    folder = tmp_path / "plain"
    write_data(folder, 7, seed=3, size=64)
    lines = read(folder)
    write_data(tmp_path / "paired", 7, seed=3, size=64, paired=True, workers=2)
    for number, (one, line) in enumerate(zip(read(tmp_path / "paired"), lines, strict=True)):
        given = [subject.pop("reference", None) for subject in one["subjects"]]
        assert one == line
        other = f"{twin(number):05d}"
        files = [
            {"image": f"{other}.png", "mask": f"masks/{other}_{place}.png"}
            for place in range(len(given))
        ]
        assert given == (files if number < 6 else [None] * len(given))  # the last has no twin
    for file in folder.rglob("*.png"):
        other = tmp_path / "paired" / file.relative_to(folder)
        assert file.read_bytes() == other.read_bytes()
    report = check_records(open_records(tmp_path / "paired"), 2)
    assert report.faults == {} and report.references == sum(len(x["subjects"]) for x in lines[:6])


def test_a_reference_shows_the_person_whose_it_is(tmp_path):
    """The colour of the shirt, which no two people share, is on the reference too."""
    write_data(tmp_path, 24, seed=3, size=64, paired=True)
    for number, record in enumerate(open_records(tmp_path)):
        loaded, _ = read_record(record, 2)
        for look, subject in zip(training_scene(3, number).people, loaded.subjects, strict=True):
            (reference,) = subject.references
            scene = training_scene(3, twin(number))
            pixels = np.asarray(reference.image)[reference.mask] / 255
            shirt = np.array(look.shirt)
            if scene.context.time == "day" and scene.context.weather == "clear":
                near = np.linalg.norm(pixels - shirt, axis=-1) < 0.02
                assert near.mean() > 0.05, number
