"""The measures of pictures and masks, on pixels whose answer is known."""

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter

from moa_jax.dataset import quality
from moa_jax.dataset.options import Options


def mask(rows, columns, shape=(10, 20)):
    found = np.zeros(shape, bool)
    found[rows, columns] = True
    return found


def test_the_laplacian_of_a_chessboard_is_known():
    board = (np.indices((64, 64)).sum(0) % 2 * 100).astype(np.uint8)
    # Inside, each pixel differs from its four neighbours by 100: 4 * 100 = 400, up and down.
    inside = quality.sharpness(Image.fromarray(np.tile(board, (8, 8))).convert("RGB"))
    assert inside == pytest.approx(400**2, rel=0.01)
    assert quality.sharpness(Image.new("RGB", (64, 64), "grey")) == 0


@pytest.mark.parametrize("name", ["astronaut", "camera", "chelsea", "coffee", "rocket"])
def test_sharp_photographs_pass_and_blurred_ones_do_not(name):
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    least = Options().min_sharpness
    assert quality.sharpness(image) > least
    assert quality.sharpness(image.filter(ImageFilter.GaussianBlur(2))) < least


def test_a_subject_is_cut_by_the_left_right_and_upper_edge():
    whole, everywhere = slice(2, 8), slice(None)
    assert quality.cut_share(mask(whole, slice(5, 9))) == 0
    assert quality.cut_share(mask(whole, slice(0, 4))) == 1
    assert quality.cut_share(mask(whole, slice(16, None))) == 1
    assert quality.cut_share(mask(slice(0, 4), slice(5, 9))) == 1
    assert quality.cut_share(mask(slice(6, None), slice(5, 9))) == 0  # by the lower edge
    hand = mask(whole, slice(5, 9)) | mask(slice(3, 5), slice(0, 9))
    assert quality.cut_share(hand) == pytest.approx(2 / 6)
    assert quality.cut_share(mask(everywhere, slice(0, 0))) == 0  # empty


def test_a_mask_ends_a_little_past_its_box():
    everywhere = mask(slice(None), slice(None), (100, 200))
    fitted = quality.fit_to_box(everywhere, (50.0, 20.0, 150.0, 60.0))
    rows, columns = np.nonzero(fitted)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (18, 61, 45, 154)
    at_edge = quality.fit_to_box(everywhere, (0.0, 0.0, 200.0, 100.0))
    assert at_edge.all()


def test_fill_and_overlap_are_shares_of_areas():
    half = mask(slice(0, 5), slice(0, 10))
    assert quality.fill(half, (0.0, 0.0, 10.0, 10.0)) == 0.5
    assert quality.fill(half, (3.0, 3.0, 3.0, 3.0)) == 0
    assert quality.mask_overlap(half, mask(slice(0, 10), slice(0, 5))) == 0.5
    assert quality.mask_overlap(half, mask(slice(0, 0), slice(0, 5))) == 0


def test_copies_are_found_by_their_hash():
    image = Image.fromarray(skimage.data.astronaut())
    copies = [image, image.resize((200, 200)), image.point(lambda value: value * 0.7)]
    others = [Image.fromarray(skimage.data.coffee()), image.transpose(Image.FLIP_LEFT_RIGHT)]
    hashes = [quality.picture_hash(each) for each in (*copies, *others)]
    assert quality.find_duplicates(hashes, 4) == {1: 0, 2: 0}


def test_duplicates_are_those_of_kept_pictures_only():
    # 0b00011 is 2 bits from 0 and dropped; 0b01111 is 2 bits from that, but 4 from 0.
    assert quality.find_duplicates([0, 0b11, 0b1111, 0b11111], 2) == {1: 0, 3: 2}
    assert quality.find_duplicates([2**64 - 1, 2**64 - 1], 0) == {1: 0}
    assert quality.find_duplicates([], 4) == {}
