"""Identity: cosines worked out by hand, and dlib's real weights on real photographs."""

import numpy as np
import pytest
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.evaluation.faces.likeness import centre_of, compare, embed_people, match
from moa_jax.evaluation.faces.protocol import Person
from moa_jax.faces.recognizer import Face, open_recognizer
from tests.evaluation.faces.fake import Colours
from tests.faces.photos import astronaut, changed, figures, three, without_faces

ONE, UP, SLANT = (np.array(each, np.float32) for each in ((1, 0), (0, 1), (0.6, 0.8)))
PICTURE = Image.new("RGB", (8, 8))


class Given:
    """Finds faces with the given embeddings."""

    name, licence, source, same_person = "given", "none", "here", 0.7

    def __init__(self, *vectors):
        self.vectors = np.array(vectors, np.float32).reshape(len(vectors), 2)

    def find(self, image):
        return [Face((0.0, 0.0, 1.0, 1.0), np.zeros((5, 2)), 1.0) for _ in self.vectors]

    def embed(self, image, faces):
        return self.vectors[: len(faces)]


def test_the_most_alike_get_each_other_first():
    # By rows alone both would take the first face.
    assert match(np.array([[0.9, 0.8], [0.95, 0.1]])) == [1, 0]
    assert match(np.array([[0.9], [0.95], [0.2]])) == [None, 0, None]
    assert match(np.array([[0.1, 0.9, 0.3]])) == [1]
    assert match(np.array([[-0.5, -0.1]])) == [1]
    assert match(np.zeros((2, 0))) == [None, None]


def test_one_person_counts_by_the_face_that_is_most_like_them():
    found = compare(Given(UP, SLANT), PICTURE, [ONE])
    assert found["faces"] == 2 and found["missing"] == 0
    assert found["identity"] == pytest.approx(0.6)
    assert found["distance"] == pytest.approx(np.sqrt(2 - 2 * 0.6)) and not found["same"]
    assert found["centred"] is None


def test_two_people_count_by_the_less_alike():
    found = compare(Given(SLANT, ONE), PICTURE, [ONE, UP])
    assert found["identity"] == pytest.approx(0.8)
    assert found["distance"] == pytest.approx(np.sqrt(2 - 2 * 0.8)) and found["same"]


def test_a_missing_face_counts_0_and_has_no_distance():
    nobody = compare(Given(), PICTURE, [ONE], UP)
    assert nobody == {
        "faces": 0, "missing": 1, "identity": 0.0, "centred": 0.0, "distance": None, "same": False,
    }  # fmt: skip
    one_of_two = compare(Given(ONE), PICTURE, [ONE, UP])
    assert one_of_two["identity"] == 0 and one_of_two["missing"] == 1
    assert one_of_two["distance"] is None and not one_of_two["same"]


def test_a_negative_cosine_counts_0():
    assert compare(Given(-ONE), PICTURE, [ONE])["identity"] == 0


def test_the_centre_is_taken_from_both_sides():
    # From (0, 1): the person is at (1, -1), the face at (0.6, -0.2).
    expected = (0.6 + 0.2) / (np.sqrt(2) * np.sqrt(0.36 + 0.04))
    assert compare(Given(SLANT), PICTURE, [ONE], UP)["centred"] == pytest.approx(expected)


def test_the_centre_is_the_mean_of_three_people_or_more():
    assert centre_of({"a": ONE, "b": UP}) is None
    assert np.allclose(centre_of({"a": ONE, "b": UP, "c": SLANT}), (1.6 / 3, 1.8 / 3))


def test_all_pictures_of_a_person_tell_who_it_is(tmp_path):
    colours = [(200, 50, 50), (50, 200, 50)]
    for i, colour in enumerate(colours):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{i}.png")
    person = Person("ann", "woman", (tmp_path / "0.png", tmp_path / "1.png"))
    found = embed_people(Colours(), [person])["ann"]
    alone = [np.array(colour) - 127.999 for colour in colours]
    mean = sum(each / np.linalg.norm(each) for each in alone)
    assert np.allclose(found, mean / np.linalg.norm(mean), atol=1e-4)


def test_the_largest_face_of_a_reference_counts(tmp_path):
    class Sizes(Colours):
        def find(self, image):
            whole = Face((0.0, 0.0, 8.0, 8.0), np.zeros((5, 2)), 0.5)
            return [Face((0.0, 0.0, 2.0, 8.0), np.zeros((5, 2)), 0.9), whole]

    picture = Image.new("RGB", (8, 8), (10, 200, 90))
    picture.paste((250, 0, 0), (0, 0, 2, 8))
    picture.save(tmp_path / "a.png")
    found = embed_people(Sizes(), [Person("a", "man", (tmp_path / "a.png",))])["a"]
    sizes = Sizes()
    assert np.allclose(found, sizes.embed(picture, sizes.find(picture)[1:])[0])


def test_a_reference_without_a_face_is_refused(tmp_path):
    without_faces()[1].save(tmp_path / "coffee.png")
    person = Person("coffee", "man", (tmp_path / "coffee.png",))
    with pytest.raises(InputError, match="coffee.png: dlib finds no face in this reference"):
        embed_people(open_recognizer("dlib"), [person])


@pytest.fixture(scope="module")
def dlib():
    return open_recognizer("dlib")


@pytest.fixture(scope="module")
def known(dlib):
    people = {"astronaut": astronaut(), **figures()}
    return {name: dlib.embed(each, dlib.find(each)[:1])[0] for name, each in people.items()}


def test_dlib_knows_her_again_and_misses_nobody_where_she_is(dlib, known):
    for picture in (*changed().values(), three()):
        found = compare(dlib, picture, [known["astronaut"]])
        assert found["same"] and found["identity"] > 0.96
    for picture in without_faces():
        assert compare(dlib, picture, [known["astronaut"]])["identity"] == 0


@pytest.mark.skipif(not figures(), reason="the source distribution of face_recognition is not here")
def test_centring_spreads_dlibs_cosines_and_two_people_get_their_own_faces(dlib, known):
    centre = np.mean([known[name] for name in ("astronaut", "obama", "biden")], axis=0)
    stranger = compare(dlib, figures()["biden"], [known["obama"]], centre)
    again = compare(dlib, figures()["obama2"], [known["obama"]], centre)
    assert stranger["identity"] > 0.8 and stranger["centred"] == 0 and not stranger["same"]
    assert again["identity"] > 0.95 and again["centred"] > 0.7 and again["same"]
    both = Image.new("RGB", (900, 600))
    for left, name in ((0, "biden"), (450, "obama")):
        picture = figures()[name]
        both.paste(picture.resize((450, round(450 * picture.height / picture.width))), (left, 0))
    found = compare(dlib, both, [known["obama"], known["biden"]], centre)
    assert found["faces"] == 2 and found["same"]
    swapped = compare(dlib, both, [known["obama"], known["astronaut"]], centre)
    assert not swapped["same"] and swapped["centred"] == 0
