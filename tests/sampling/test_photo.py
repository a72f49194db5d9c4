"""Photos and masks, cut to size: what a mask marks is drawn anew, and nothing far from it."""

import numpy as np
import pytest
import skimage.draw
from PIL import Image
from scipy.ndimage import distance_transform_cdt

from moa_jax.errors import InputError
from moa_jax.sampling.photo import Photo, choose_size, coarse_mask, paste, prepare_photo, psnr
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


def test_a_mask_that_is_cut_away_is_told_from_a_black_one():
    photo, mask = Image.new("RGB", (200, 100)), Image.new("L", (200, 100))
    mask.paste(255, (0, 0, 20, 100))
    with pytest.raises(InputError, match="white in the mask is cut away.* 50x50 .* 200x100"):
        prepare_photo(photo, mask, 50, 50, area=1)


@pytest.mark.parametrize("opened", [False, True])
def test_a_mask_is_the_same_from_its_file_and_opened(opened, tmp_path):
    """A red stroke has a luminance below one half, and labels are 0 and 1."""
    shape = np.zeros((64, 64), np.uint8)
    shape[5:20, 30:60] = 1
    red = np.stack([255 * shape, 0 * shape, 0 * shape], -1)
    for values in (shape, red):
        Image.fromarray(values).save(tmp_path / "mask.png")
        mask = Image.open(tmp_path / "mask.png") if opened else tmp_path / "mask.png"
        found = prepare_photo(Image.new("RGB", (64, 64)), mask, None, None, area=64 * 64).mask
        np.testing.assert_array_equal(found, shape)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(2048, 2048, (512, 512)), (2000, 1501, (512, 512)), (97, 131, (64, 64)), (40, 56, (104, 144))],
)
def test_whatever_is_masked_in_the_photo_is_masked_in_its_place(width, height, size):
    """Lines of one and two pixels and dots: larger or smaller, none is lost, and none is added."""
    random = np.random.default_rng(0)
    mask = np.zeros((height, width), bool)
    mask[height // 3, :] = mask[:, width // 3 : width // 3 + 2] = True
    mask[random.integers(0, height, 30), random.integers(0, width, 30)] = True
    mask[height // 2] = mask[:, width // 2] = False  # may fall between two pixels
    photo = prepare_photo(Image.new("RGB", (width, height)), Image.fromarray(mask), *size, area=1)
    scale = max(size[0] / height, size[1] / width)
    expected = np.zeros(size, bool)
    # Each pixel's middle in the picture; the other way round where the picture is the larger one.
    if scale <= 1:
        rows, columns = (
            (places + 0.5 - side / 2) * scale + cut / 2
            for places, side, cut in zip(np.nonzero(mask), mask.shape, size, strict=True)
        )
        kept = (rows > 0) & (rows < size[0]) & (columns > 0) & (columns < size[1])
        expected[rows[kept].astype(int), columns[kept].astype(int)] = True
    else:
        rows, columns = (
            ((np.arange(cut) + 0.5 - cut / 2) / scale + side / 2).astype(int)
            for side, cut in zip(mask.shape, size, strict=True)
        )
        expected = mask[rows][:, columns]
    np.testing.assert_array_equal(photo.mask, expected)


def test_a_latent_is_drawn_if_any_of_its_pixels_is():
    mask = np.zeros((16, 24), np.float32)
    mask[8, 23] = 1.0
    np.testing.assert_array_equal(coarse_mask(mask, 8)[0, :, :, 0], [[0, 0, 0], [0, 0, 1]])


def drawn_masks(size):
    """Lines of several widths and directions, small shapes, and what touches the border."""
    masks = {}
    middle = size // 2
    for width in (1, 2, 6, 8, 12):
        half = [middle - width // 2, middle - width // 2 + width]
        masks[f"row {width}"] = skimage.draw.rectangle((half[0], 0), (half[1] - 1, size - 1))
        masks[f"column {width}"] = skimage.draw.rectangle((4, half[0]), (size - 9, half[1] - 1))
        corners = (
            np.array([0, 0, size - width, size - width]),
            np.array([0, width, size, size - width]),
        )
        masks[f"diagonal {width}"] = skimage.draw.polygon(*corners, shape=(size, size))
    masks["pixel"] = (np.array([7]), np.array([11]))
    masks["dot"] = skimage.draw.disk((middle, middle), 4)
    masks["corner"] = skimage.draw.rectangle((0, 0), (2, 2))
    masks["edge"] = skimage.draw.rectangle((size - 1, 5), (size - 1, 9))
    masks["block"] = skimage.draw.rectangle((middle // 2, 9), (middle, middle))
    masks["everything"] = skimage.draw.rectangle((0, 0), (size - 1, size - 1))
    for name, (rows, columns) in masks.items():
        mask = np.zeros((size, size), bool)
        mask[rows, columns] = True
        yield name, mask


@pytest.mark.parametrize(("size", "edge"), [(64, 1), (512, 4)])
def test_all_that_is_masked_is_drawn_anew_and_fades_into_the_photo(size, edge):
    """Drawn in white on a black photo, the picture shows how much is drawn where."""
    black, white = np.zeros((size, size, 3), np.uint8), Image.new("RGB", (size, size), "white")
    for name, mask in drawn_masks(size):
        distance = distance_transform_cdt(~mask, "chessboard")
        shares = np.asarray(paste(white, Photo(black, mask.astype(np.float32))))[:, :, 0]
        expected = 255 * np.clip(1 - distance / (edge + 1), 0, 1)
        assert (shares[mask] == 255).all(), name
        assert (shares[distance > edge] == 0).all(), name
        np.testing.assert_allclose(shares, expected, atol=1, err_msg=name)


def test_pasting_keeps_the_photo_to_the_pixel_beyond_the_soft_edge():
    random = np.random.default_rng(0)
    pixels, drawn = random.integers(0, 256, (2, 128, 96, 3), np.uint8)
    mask = np.zeros((128, 96), np.float32)
    mask[30:100, 20:80] = 1.0
    pasted = np.array(paste(Image.fromarray(drawn), Photo(pixels, mask)))
    np.testing.assert_array_equal(pasted[30:100, 20:80], drawn[30:100, 20:80])
    pasted[29:101, 19:81] = pixels[29:101, 19:81]
    np.testing.assert_array_equal(pasted, pixels)
    whole = paste(Image.fromarray(drawn), Photo(pixels, None))
    np.testing.assert_array_equal(np.asarray(whole), drawn)


def test_psnr_of_a_known_error():
    one = np.zeros((4, 4, 3), np.uint8)
    assert psnr(one, one) == float("inf")
    assert psnr(one, one + 1) == pytest.approx(48.13, abs=0.01)
