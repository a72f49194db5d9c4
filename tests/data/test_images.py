import numpy as np
import pytest
import skimage.data
from PIL import Image

from moa_jax.data import images
from moa_jax.data.images import load_image, load_mask, prepare_control_image
from moa_jax.errors import InputError


@pytest.fixture(scope="module")
def cat():
    return Image.fromarray(skimage.data.chelsea()).resize((90, 60))


def distance(a, b):
    return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [("RGB", "a.png", 0), ("CMYK", "a.jpg", 8), ("P", "a.gif", 20), ("RGB", "a.webp", 8)],
)
def test_every_kind_of_colour_file_shows_the_same_picture(tmp_path, cat, mode, name, tolerance):
    cat.convert(mode).save(tmp_path / name)
    image = load_image(tmp_path / name)
    assert image.mode == "RGB"
    assert distance(image, cat) <= tolerance


def test_16_bit_grey(tmp_path, cat):
    grey = np.asarray(cat.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    image = np.asarray(load_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=-1))


def test_exif_rotation_is_applied(tmp_path, cat):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways: turn it clockwise to view
    cat.save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png")
    assert image.size == (60, 90)
    np.testing.assert_array_equal(np.asarray(image), np.rot90(np.asarray(cat), -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 4))
    image.convert(mode).save(tmp_path / "a.png")
    pixels = np.asarray(load_image(tmp_path / "a.png"))
    assert (pixels[:, :4] == 0).all()
    assert (pixels[:, 4:] == 255).all()


def test_what_cannot_be_read_is_named(tmp_path, cat):
    cat.save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    for name in ("cut.jpg", "text.png", "empty.png", "float.tif", "missing.png", ""):
        with pytest.raises(InputError, match=str(tmp_path / name)):
            load_image(tmp_path / name)


@pytest.mark.parametrize("side", [9_000, 14_000])  # Pillow lets the first pass, and not the second
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    with pytest.raises(InputError, match="huge.png: it has .*more than 80 million"):
        load_image(tmp_path / "huge.png")


def test_what_is_let_through_is_let_through_in_silence():
    assert images.MAX_PIXELS < Image.MAX_IMAGE_PIXELS


def red_palette(mask):
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    return image


@pytest.mark.parametrize(
    "draw",
    [
        lambda mask: Image.fromarray(mask),
        lambda mask: Image.fromarray(mask.astype(np.uint8) * 255),
        lambda mask: Image.fromarray(mask.astype(np.uint8)),
        lambda mask: Image.fromarray(mask.astype(np.uint8) * 155 + 100),
        lambda mask: Image.fromarray(mask.astype(np.uint16) * 65535),
        lambda mask: Image.fromarray(np.stack([mask * 255, mask * 0, mask * 0], -1).astype("u1")),
        lambda mask: Image.fromarray(
            np.stack([mask * 0 + 255] * 3 + [mask * 255], -1).astype("u1")
        ),
        red_palette,
    ],
    ids=["1 bit", "8 bit", "zero or one", "grey", "16 bit", "red", "transparent", "palette"],
)
def test_masks_of_every_kind(tmp_path, draw):
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    draw(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png"), mask)


def test_a_black_mask_is_empty(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "mask.png")
    assert not load_mask(tmp_path / "mask.png").any()


def test_a_control_picture_is_resized_as_diffusers_does(tmp_path):
    torch = pytest.importorskip("torch")
    from diffusers.image_processor import VaeImageProcessor

    values = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    picture = Image.fromarray(values)
    processor = VaeImageProcessor(do_convert_rgb=True, do_normalize=False)
    expected = processor.preprocess(picture, height=24, width=64)
    ours = prepare_control_image(picture, width=64, height=24)
    assert (ours.shape, ours.dtype) == ((24, 64, 3), np.float32)
    assert torch.equal(torch.tensor(ours).movedim(-1, 0)[None], expected)
    picture.save(tmp_path / "edges.png")
    for file in (str(tmp_path / "edges.png"), tmp_path / "edges.png"):
        np.testing.assert_array_equal(prepare_control_image(file, 64, 24), ours)


def test_a_control_picture_lies_on_white():
    black = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    np.testing.assert_array_equal(prepare_control_image(black, 4, 4), np.ones((4, 4, 3)))
