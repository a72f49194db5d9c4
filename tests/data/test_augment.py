import numpy as np
import pytest
from PIL import Image, ImageFilter

from moa_jax.data.augment import augment_subject, crop_target, cut_out, prepare_subject
from moa_jax.data.buckets import cropped as share_cropped

RED = (255, 0, 0)


def painted(photograph, masks, colours):
    pixels = photograph.copy()
    for mask, colour in zip(masks, colours, strict=True):
        pixels[mask] = colour
    return Image.fromarray(pixels)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turned", [False, True], ids=["landscape", "portrait"])
def test_masks_pick_exactly_their_subject_after_the_crop(photographs, flip, turned):
    pixels, _, subjects = photographs["coffee"]
    masks = [mask.swapaxes(0, 1) if turned else mask for _, mask in subjects]
    pixels = pixels.swapaxes(0, 1) if turned else pixels
    image = painted(pixels, masks, [RED, (0, 255, 0)])
    size = min(image.size)  # no resampling, so that the colours stay pure
    cropped, cropped_masks = crop_target(image, masks, (size, size), flip)
    assert cropped.shape == (size, size, 3)
    for mask, colour in zip(cropped_masks, [RED, (0, 255, 0)], strict=True):
        assert mask.any()
        np.testing.assert_array_equal((cropped == colour).all(-1), mask)
    unflipped, _ = crop_target(image, masks, (size, size), False)
    np.testing.assert_array_equal(cropped[:, ::-1] if flip else cropped, unflipped)


def test_the_crop_is_the_centre():
    for turn in (False, True):
        pixels = np.zeros((4, 10, 3), np.uint8)
        pixels[:] = 20 * np.arange(10)[:, None]
        pixels = pixels.swapaxes(0, 1) if turn else pixels
        cropped, _ = crop_target(Image.fromarray(pixels), [], (4, 4), False)
        cropped = cropped.swapaxes(0, 1) if turn else cropped
        np.testing.assert_array_equal(cropped[..., 0], [[60, 80, 100, 120]] * 4)


@pytest.mark.parametrize("size", [100, 611])  # smaller and larger than the picture
def test_masks_stay_aligned_when_the_picture_is_resized(photographs, size):
    pixels, _, [(_, mask)] = photographs["chelsea"]
    image = painted(pixels * 0, [mask], [RED])
    cropped, [cropped_mask] = crop_target(image, [mask], (size, size), False)
    red = cropped[..., 0] / 255.0  # the share of a pixel that is the subject
    assert np.abs(red - cropped_mask).max() <= 0.75
    assert (np.abs(red - cropped_mask) > 0.5).mean() < 2e-3
    assert abs(red.mean() - cropped_mask.mean()) < 2e-3


def test_a_cut_out_holds_the_subject_and_noise_elsewhere(photographs):
    pixels, _, [(_, mask)] = photographs["astronaut"]
    box = (50, 10, 371, 471)
    cut = np.asarray(cut_out(Image.fromarray(pixels), mask, box, np.random.default_rng(0)))
    inside = mask[10:471, 50:371]
    np.testing.assert_array_equal(cut[inside], pixels[10:471, 50:371][inside])
    noise = cut[~inside].ravel()
    share = np.bincount(noise, minlength=256) / noise.size
    assert abs(share * 256 - 1).max() < 0.2  # every value equally often
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02


def test_a_subject_is_padded_to_a_square_with_its_shape_kept():
    image = Image.new("RGB", (40, 80), RED)
    prepared = prepare_subject(image, 20)
    np.testing.assert_array_equal(prepared[:, 6:14], np.broadcast_to(RED, (20, 8, 3)))
    assert not prepared[:, :4].any() and not prepared[:, 16:].any()
    across = prepare_subject(image.rotate(90, expand=True), 20)
    np.testing.assert_array_equal(across, prepared.swapaxes(0, 1))


def test_augmentation_is_a_function_of_the_generator(photographs):
    image = Image.fromarray(photographs["astronaut"][0]).crop((0, 0, 200, 300))
    before = image.copy()
    draws = [augment_subject(image, 32, np.random.default_rng(seed)) for seed in range(8)]
    again = [augment_subject(image, 32, np.random.default_rng(seed)) for seed in range(8)]
    np.testing.assert_array_equal(draws, again)
    assert len({draw.tobytes() for draw in draws}) == 8
    assert image == before


class Script(np.random.Generator):
    """A generator whose coins fall as told: a coin under the probability applies the change."""

    def __init__(self, coins, uniform=0.0):
        super().__init__(np.random.PCG64(0))
        self.coins, self.value = list(coins), uniform

    def random(self):
        return self.coins.pop(0)

    def uniform(self, low, high):
        return low + self.value * (high - low)


NEVER = 0.99
CHANGES = ("zoom", "rotation", "colour", "blur", "grey", "flip")


def with_only(change, image, uniform=0.5):
    coins = [0.0 if name == change else NEVER for name in CHANGES]
    return augment_subject(image, 64, Script(coins, uniform))


def test_each_change_is_what_its_name_says(photographs):
    image = Image.fromarray(photographs["astronaut"][0]).crop((100, 0, 300, 300))
    plain = prepare_subject(image, 64)
    np.testing.assert_array_equal(with_only(None, image), plain)
    top = prepare_subject(image.crop((0, 0, 200, 200)), 64)
    np.testing.assert_array_equal(with_only("zoom", image), top)
    wide = image.rotate(90, expand=True)
    np.testing.assert_array_equal(with_only("zoom", wide), prepare_subject(wide, 64))
    np.testing.assert_array_equal(with_only("flip", image), plain[:, ::-1])
    np.testing.assert_array_equal(with_only("rotation", image), plain)  # the middle of -30 .. 30
    for uniform, degrees in ((0.0, -30), (1.0, 30)):
        turned = Image.fromarray(plain).rotate(degrees, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(with_only("rotation", image, uniform), turned)
    grey = with_only("grey", image)
    assert (grey == grey[..., :1]).all() and abs(grey.mean() - plain.mean()) < 8
    assert (
        np.abs(with_only("colour", image).astype(int) - plain).max() <= 8
    )  # factors of 1, no turn
    for uniform, sigma in ((0.0, 0.1), (1.0, 2.0)):
        blurred = Image.fromarray(plain).filter(ImageFilter.GaussianBlur(sigma))
        np.testing.assert_array_equal(with_only("blur", image, uniform), blurred)


def test_colour_changes_reach_half_and_one_and_a_half():
    image = Image.new("RGB", (10, 10), (60, 60, 60))
    for uniform, expected in ((0.0, 30), (1.0, 90)):  # of a flat grey only brightness shows
        assert abs(int(with_only("colour", image, uniform)[32, 32, 0]) - expected) <= 1
    red = Image.new("RGB", (10, 10), (200, 0, 0))
    turned = with_only("colour", red, 1.0)[32, 32].astype(int)
    assert turned[0] < 0.2 * turned[1] and abs(turned[1] - turned[2]) < 10  # half a circle: cyan


@pytest.mark.parametrize(
    ("change", "chance"), list(zip(CHANGES, (0.5, 0.75, 0.5, 0.5, 0.1, 0.5), strict=True))
)
def test_each_change_comes_as_often_as_in_fastcomposer(photographs, change, chance):
    image = Image.fromarray(photographs["astronaut"][0]).crop((100, 0, 300, 300))
    plain = with_only(None, image)

    def draw(coin):
        coins = [coin if name == change else NEVER for name in CHANGES]
        return augment_subject(image, 64, Script(coins, uniform=1.0))

    assert (draw(chance - 0.01) != plain).any()
    np.testing.assert_array_equal(draw(chance + 0.01), plain)


def test_a_crop_of_another_shape_by_hand():
    """Columns 0-9 of 12 rows; to 2:3 rows all stay, and of the columns the middle 8."""
    image = np.zeros((12, 10, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(10) * 10, (np.arange(12) * 10)[:, None]
    mask = np.zeros((12, 10), bool)
    mask[0, 1] = mask[11, 8] = True  # the crop's corners
    pixels, [cropped] = crop_target(Image.fromarray(image), [mask], (8, 12), False)
    np.testing.assert_array_equal(pixels, image[:, 1:9])
    np.testing.assert_array_equal(cropped, mask[:, 1:9])
    pixels, [cropped] = crop_target(Image.fromarray(image), [mask], (10, 5), True)
    np.testing.assert_array_equal(pixels, image[3:8, ::-1])  # 7 rows are left out
    assert not cropped.any()


@pytest.mark.parametrize("size", [(96, 48), (48, 80), (64, 64), (640, 448)])
def test_a_crop_takes_no_more_than_its_shape_asks_for(size):
    """Pixels tell their place: the edges of the crop are as far out as they can be."""
    width, height = 611, 407
    wide, high = min(width, height * size[0] / size[1]), min(height, width * size[1] / size[0])
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[:, :, 0] = (np.arange(width) * 255 / (width - 1)).round()
    ramp[:, :, 1] = (np.arange(height) * 255 / (height - 1)).round()[:, None]
    pixels, _ = crop_target(Image.fromarray(ramp), [], size, False)
    spans = [float(pixels[..., axis].max()) - float(pixels[..., axis].min()) for axis in (0, 1)]
    # A pixel of the result averages one of the source or more: half of it is missing at either end.
    assert spans[0] == pytest.approx(255 * wide / width * (1 - 1 / size[0]), abs=4)
    assert spans[1] == pytest.approx(255 * high / height * (1 - 1 / size[1]), abs=4)
    assert 1 - wide * high / (width * height) == pytest.approx(share_cropped((width, height), size))
