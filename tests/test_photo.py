"""Photos and masks, cut to size: nothing outside a mask may change, whatever file it came from."""

import numpy as np
import pytest
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.photo import Photo, choose_size, coarse_mask, paste, prepare_photo, psnr
from tests.personal import portrait


@pytest.mark.parametrize(
    ("photo", "height", "width", "expected"),
    [
        ((512, 512), None, None, (512, 512)),
        ((4000, 3000), None, None, (592, 440)),
        ((1000, 2000), 512, None, (256, 512)),
        ((1000, 2000), None, 512, (512, 1024)),
        ((1000, 2000), 64, 72, (72, 64)),
    ],
)
def test_a_size_that_nobody_gave_keeps_the_photos_proportions(photo, height, width, expected):
    size = choose_size(photo, height, width, area=512 * 512, multiple=8)
    assert size == expected


def test_a_photo_is_scaled_to_cover_and_cut_around_its_middle():
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    photo = prepare_photo(wide, None, 50, 50, area=1)
    assert photo.pixels.shape == (50, 50, 3)
    np.testing.assert_array_equal(photo.pixels[25, 25], (0, 0, 255))
    assert photo.pixels[:, 5:45, 0].max() < 50


@pytest.mark.parametrize("kind", ["RGBA", "CMYK", "L", "turned"])
def test_photos_and_masks_are_read_however_they_were_saved(kind, tmp_path):
    picture = Image.new("RGB", (40, 24), "red")
    picture.paste("white", (0, 0, 20, 24))
    file = tmp_path / ("photo.jpg" if kind in ("CMYK", "turned") else "photo.png")
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
        picture.rotate(90, expand=True).save(file, exif=exif, quality=100)
    else:
        picture.convert(kind).save(file)
    mask = Image.new("L", (40, 24), 0)
    mask.paste(255, (20, 0, 40, 24))
    photo = prepare_photo(file, mask, 24, 40, area=1)
    assert photo.pixels[12, 5].min() > 240
    assert photo.pixels[12, 35, 1:].max() < (160 if kind == "L" else 60)
    np.testing.assert_array_equal(photo.mask[:, [2, 37]], [[0.0, 1.0]] * 24)


def test_a_mask_of_other_proportions_or_without_white_is_refused():
    with pytest.raises(InputError, match="mask has 40x56 pixels and the photo 60x40"):
        prepare_photo(portrait(0, (60, 40)), portrait(1), None, None, area=64)
    with pytest.raises(InputError, match="the mask is black all over"):
        prepare_photo(portrait(0), Image.new("L", (40, 56)), None, None, area=64)


def test_a_latent_is_drawn_if_any_of_its_pixels_is():
    mask = np.zeros((16, 24), np.float32)
    mask[8, 23] = 1.0
    np.testing.assert_array_equal(coarse_mask(mask, 8)[0, :, :, 0], [[0, 0, 0], [0, 0, 1]])


def test_pasting_keeps_the_photo_to_the_pixel_outside_the_mask():
    random = np.random.default_rng(0)
    pixels, drawn = random.integers(0, 256, (2, 128, 96, 3), np.uint8)
    mask = np.zeros((128, 96), np.float32)
    mask[30:100, 20:80] = 1.0
    pasted = np.asarray(paste(Image.fromarray(drawn), Photo(pixels, mask)))
    np.testing.assert_array_equal(pasted[mask == 0], pixels[mask == 0])
    np.testing.assert_array_equal(pasted[45:85, 35:65], drawn[45:85, 35:65])
    whole = paste(Image.fromarray(drawn), Photo(pixels, None))
    np.testing.assert_array_equal(np.asarray(whole), drawn)


def test_psnr_of_a_known_error():
    one = np.zeros((4, 4, 3), np.uint8)
    assert psnr(one, one) == float("inf")
    assert psnr(one, one + 1) == pytest.approx(48.13, abs=0.01)
