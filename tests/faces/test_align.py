"""Turning faces upright, against OpenCV and scikit-image."""

import numpy as np
import skimage.transform

from moa_jax.faces.align import SIZE, TEMPLATE, aligned, similarity
from moa_jax.faces.recognizer import Face
from moa_jax.faces.yunet import YuNet
from tests.faces.photos import astronaut, changed

import cv2  # isort: skip


def test_a_similarity_is_scikit_images():
    source, target = np.random.default_rng(0).normal(size=(2, 5, 2)) * 50
    expected = skimage.transform.SimilarityTransform.from_estimate(source, target)
    assert np.allclose(similarity(source, target), expected.params[:2], atol=1e-9)


def test_a_similarity_that_is_there_is_found_from_two_points():
    turn = np.array([(0.0, -2.0, 5.0), (2.0, 0.0, -1.0)])
    source = np.array([(1.0, 0.0), (3.0, 4.0)])
    target = source @ turn[:, :2].T + turn[:, 2]
    assert np.allclose(similarity(source, target), turn)


def test_a_cut_out_face_is_opencvs():
    (face,) = YuNet().find(astronaut())
    matrix = similarity(face.points, TEMPLATE)
    expected = cv2.warpAffine(np.asarray(astronaut()), matrix, (SIZE, SIZE))
    found = np.asarray(aligned(astronaut(), face))
    difference = np.abs(found.astype(int) - expected.astype(int))
    # OpenCV interpolates in steps of 1/32 pixel, and blends with black beyond the edge.
    assert difference.mean() < 0.6 and np.quantile(difference, 0.99) <= 6


def test_a_turned_picture_gives_the_same_face():
    (face,) = YuNet().find(astronaut())
    angle, middle = np.deg2rad(15), np.array(astronaut().size) / 2
    back = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    turned = Face(face.box, (face.points - middle) @ back + middle, face.score)
    cut = [aligned(astronaut(), face), aligned(changed()["turned by 15"], turned)]
    difference = np.abs(np.subtract(*(np.asarray(each, float) for each in cut)))
    assert difference.mean() < 3  # the turned picture was interpolated twice


def test_points_that_are_not_known_are_left_out():
    points = 2 * TEMPLATE + (10, 20)
    known = points.copy()
    known[3:] = np.nan
    box = (0.0, 0.0, 1.0, 1.0)
    one, other = (aligned(astronaut(), Face(box, each, 1.0)) for each in (points, known))
    difference = np.abs(np.asarray(one, int) - np.asarray(other, int))
    assert difference.max() <= 2
