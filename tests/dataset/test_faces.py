"""What a recognizer of faces adds, with one that is told what to find."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import skimage.data
from PIL import Image

from moa_jax.data.__main__ import main
from moa_jax.dataset import Options, build
from moa_jax.errors import InputError
from tests.dataset.recorded import ASTRONAUT, WOMAN, Recorded, recorded

FACE = (170.0, 60.0, 280.0, 190.0)  # of the astronaut, in a picture of 512 pixels


@dataclass(frozen=True, eq=False)
class Face:
    box: tuple
    points: np.ndarray
    score: float = 1.0


class Told:
    """Finds the faces, and gives the embeddings, of the picture's marked corner pixel."""

    name, licence, source, same_person = "told", "CC0", "this test", 0.6

    def __init__(self, faces):
        self.faces = faces  # by mark: boxes and angles in degrees

    def find(self, image):
        boxes, _ = self.faces[mark(image)]
        return [Face(box, np.full((5, 2), np.nan)) for box in boxes]

    def embed(self, image, faces):
        boxes, angles = self.faces[mark(image)]
        chosen = [angles[boxes.index(face.box)] for face in faces]
        return np.stack([np.cos(np.radians(chosen)), np.sin(np.radians(chosen))], 1)


def mark(image):
    return image.getpixel((511, 0))[0] // 10


@pytest.fixture
def source(tmp_path):
    """Four pictures of the astronaut; a corner pixel says which, and a stripe makes them differ."""
    (tmp_path / "source").mkdir()
    for number in range(4):
        image = Image.fromarray(skimage.data.astronaut())
        image.paste((0, 255, 0), (400, 100 * number, 500, 100 * number + 120))
        image.putpixel((511, 0), (number * 10 + 5, 0, 0))
        image.save(tmp_path / "source" / f"{number}.png")
    return tmp_path / "source"


def test_the_same_person_is_paired_and_nobody_from_the_threshold_on(source, tmp_path):
    # 30 degrees are 0.518 apart, and 60 degrees 1.
    angles = {0: 0, 1: 30, 2: 90, 3: 100}
    recognizer = Told({number: ([FACE], [angle]) for number, angle in angles.items()})
    options = Options(duplicate_distance=-1)
    data = tmp_path / "data"
    report = build(source, data, [recorded()], options, recognizer=recognizer, pair=True)
    assert report.pairs == 2
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
    references = [row["subjects"][0]["reference"] for row in rows]
    pictures = [[each["image"] for each in found] for found in references]
    assert pictures == [[f"images/{other}.png"] for other in (1, 0, 3, 2)]
    assert references[0] == [{"image": "images/1.png", "mask": "masks/1.png.0.png"}]
    assert main(["check", str(data)]) == 0
    pairs = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    assert [pair["distance"] for pair in pairs] == [0.1743, 0.5176]  # 2 sin(5°), 2 sin(15°)
    card = (data / "README.md").read_text()
    assert "2 pairs of subjects" in card and "less than 0.6 apart" in card
    assert "told (CC0; this test)" in card
    # Two subjects in a row, two rows: the widest pair first.
    sheet = Image.open(data / "pairs.png")
    assert sheet.width > 2 * 300 > sheet.height - 2 * 100


def test_a_lower_threshold_of_ones_own_is_kept_to(source, tmp_path):
    recognizer = Told({number: ([FACE], [30 * number]) for number in range(4)})
    options = Options(duplicate_distance=-1, pair_distance=0.5)
    report = build(
        source, tmp_path / "data", [recorded()], options, recognizer=recognizer, pair=True
    )
    assert report.pairs == 0 and "reference" not in report.rows[0]["subjects"][0]


def test_people_without_a_good_face_are_left_out(source, tmp_path):
    aside = (420.0, 10.0, 500.0, 90.0)  # not on the woman
    faces = {
        0: ([FACE, aside], [0, 50]),
        1: ([(200.0, 100.0, 230.0, 130.0)], [0]),
        2: ([(170.0, -5.0, 280.0, 190.0)], [0]),
        3: ([], []),
    }
    options = Options(duplicate_distance=-1, max_cut=1.0)
    report = build(source, tmp_path / "data", [recorded()], options, recognizer=Told(faces))
    assert [row["file_name"] for row in report.rows] == ["images/0.png"]
    kinds = {name: reason.partition(":")[0] for name, reason in report.dropped.items()}
    assert kinds == {"1.png": "small face", "2.png": "cut face", "3.png": "faces"}


def test_a_blurred_face_is_left_out(tmp_path):
    image = Image.fromarray(skimage.data.astronaut())
    left, top, right, bottom = map(int, FACE)
    image.paste(image.crop((left, top, right, bottom)).resize((9, 9)).resize((110, 130)), (170, 60))
    (tmp_path / "source").mkdir()
    image.putpixel((511, 0), (5, 0, 0))
    image.save(tmp_path / "source/0.png")
    recognizer = Told({0: ([FACE], [0])})
    with pytest.raises(InputError, match="1 blurred face"):
        build(tmp_path / "source", tmp_path / "data", [recorded()], recognizer=recognizer)


def test_an_animal_needs_no_face(source, tmp_path):
    class Dogs(Recorded):
        def caption(self, image, attempt):
            return "A dog."

        def ground(self, image, caption):
            [phrase, *_] = super().ground(image, ASTRONAUT)
            return [type(phrase)(0, 5, (WOMAN,))]

    network = Dogs()
    models = type(recorded())(network, network, network)
    recognizer = Told({number: ([], []) for number in range(4)})
    options = Options(subjects="animals", duplicate_distance=-1)
    report = build(source, tmp_path / "data", [models], options, recognizer=recognizer, pair=True)
    assert len(report.rows) == 4 and report.pairs == 0


def test_pairs_need_a_recognizer(source, tmp_path):
    with pytest.raises(InputError, match="needs a recognizer"):
        build(source, tmp_path / "data", [recorded()], pair=True)
