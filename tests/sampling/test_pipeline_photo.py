"""Pictures that start from a photo or follow a control picture, against diffusers."""

import numpy as np
import pytest
from PIL import Image

from moa_jax import Pipeline
from moa_jax.errors import InputError
from moa_jax.sampling.control import Control
from moa_jax.sampling.start import picture_keys, skipped_steps, standard_noise
from tests.backbone.parity import randomize
from tests.personal import MARKED, PROMPT, pixels, portrait

SIZE = {"height": 48, "width": 72}
STEPS = {"num_inference_steps": 6, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def oracle(torch, tiny_folder, monkeypatch):
    """Builds a pipeline of diffusers that draws our noise and takes the mean of the latents."""
    import diffusers
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    noise = standard_noise(picture_keys(7, 2), (2, 6, 9, 4))
    ours = torch.tensor(np.asarray(noise)).permute(0, 3, 1, 2)
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )

    def build(kind, **parts):
        made = getattr(diffusers, kind).from_pretrained(tiny_folder, **parts)
        made.set_progress_bar_config(disable=True)
        module = __import__(type(made).__module__, fromlist=["randn_tensor"])
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: ours[: shape[0]].clone())
        return lambda **options: made(PROMPT, num_images_per_prompt=2, **STEPS, **options).images

    return build


def difference(drawn, expected):
    assert np.asarray(expected[0]).std() > 5, "a flat picture would prove nothing"
    return np.abs(pixels(drawn) - np.stack([np.asarray(each, np.int16) for each in expected]))


@pytest.mark.parametrize("strength", [0.35, 1.0])
def test_image_to_image_is_diffusers(strength, oracle, plain):
    photo = portrait(3, (72, 48))
    expected = oracle("StableDiffusionImg2ImgPipeline")(image=photo, strength=strength)
    drawn = plain(
        PROMPT,
        num_images=2,
        seed=7,
        image=photo,
        strength=strength,
        sampler="ddim",
        **SIZE,
        **STEPS,
    )
    assert difference(drawn, expected).mean() < 0.1
    assert len(drawn.timesteps) == int(6 * strength)


def mask_of(box):
    mask = Image.new("L", (72, 48))
    mask.paste(255, box)
    return mask


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_inpainting_is_diffusers_inside_the_mask_and_the_photo_around_it(strength, oracle, plain):
    photo, mask = portrait(3, (72, 48)), mask_of((16, 8, 56, 40))
    expected = oracle("StableDiffusionInpaintPipeline")(
        image=photo, mask_image=mask, strength=strength, **SIZE
    )
    drawn = plain(
        PROMPT,
        num_images=2,
        seed=7,
        image=photo,
        mask=mask,
        strength=strength,
        sampler="ddim",
        **SIZE,
        **STEPS,
    )
    outside = np.asarray(mask_of((15, 7, 57, 41))) == 0  # beyond the soft edge
    for picture in drawn.images:
        np.testing.assert_array_equal(np.asarray(picture)[outside], np.asarray(photo)[outside])
    assert difference(drawn, expected)[:, 8:40, 16:56].mean() < 0.1
    assert np.abs(pixels(drawn) - np.asarray(photo))[:, 8:40, 16:56].mean() > 10


@pytest.mark.parametrize("box", [(0, 20, 72, 21), (35, 0, 37, 48), (71, 47, 72, 48)])
def test_a_mask_of_a_pixels_width_is_drawn_anew(box, plain):
    photo, mask = portrait(3, (72, 48)), mask_of(box)
    draw = {"num_images": 2, "seed": 7, "image": photo, "sampler": "ddim", **SIZE, **STEPS}
    change = np.abs(pixels(plain(PROMPT, mask=mask, **draw)) - np.asarray(photo)).mean(axis=(0, 3))
    assert change[np.asarray(mask) > 0].mean() > 10


@pytest.fixture(scope="module")
def controlnets(torch, tiny_folder, tmp_path_factory):
    import diffusers

    unet = diffusers.UNet2DConditionModel.from_pretrained(tiny_folder, subfolder="unet")
    folders = []
    for seed in range(2):
        made = diffusers.ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=(8, 16, 24, 32)
        )
        randomize(made, random=torch.Generator().manual_seed(seed), spread=0.2)
        folders.append(tmp_path_factory.mktemp("controlnet"))
        made.save_pretrained(folders[-1])
    return folders


@pytest.mark.slow
def test_two_controlnets_are_diffusers(oracle, controlnets, tiny_folder):
    import diffusers

    edges = [portrait(4, (72, 48)), portrait(5, (72, 48))]
    networks = [diffusers.ControlNetModel.from_pretrained(each) for each in controlnets]
    expected = oracle("StableDiffusionControlNetPipeline", controlnet=networks)(
        image=edges,
        controlnet_conditioning_scale=[0.8, 0.5],
        control_guidance_start=[0.0, 0.4],
        control_guidance_end=[0.7, 1.0],
        **SIZE,
    )
    pipe = Pipeline.from_pretrained(tiny_folder, controlnets=controlnets)
    controls = [Control(edges[0], 0.8, end=0.7), Control(edges[1], 0.5, start=0.4)]
    draw = dict(num_images=2, seed=7, sampler="ddim", **SIZE, **STEPS)
    drawn = pipe(PROMPT, controls=controls, **draw)
    assert difference(drawn, expected).mean() < 0.1
    free = pipe(PROMPT, **draw)
    assert np.abs(pixels(drawn) - pixels(free)).mean() > 3
    off = pipe(PROMPT, controls=[Control(each, 0.0) for each in edges], **draw)
    assert np.abs(pixels(off) - pixels(free)).max() <= 1
    with pytest.raises(InputError, match="1 control.* 2 ControlNet.*give one for each"):
        pipe(PROMPT, controls=controls[:1])


@pytest.mark.parametrize("kind", ["Img2Img", pytest.param("Inpaint", marks=pytest.mark.slow)])
def test_a_controls_range_counts_the_steps_that_a_photo_leaves(
    kind, oracle, controlnets, tiny_folder
):
    """Three of six steps are taken, and the control is for the first of them."""
    import diffusers

    photo, edges, mask = portrait(3, (72, 48)), portrait(4, (72, 48)), mask_of((0, 0, 72, 48))
    network = diffusers.ControlNetModel.from_pretrained(controlnets[0])
    masked = {"mask_image": mask} if kind == "Inpaint" else {}
    expected = oracle(f"StableDiffusionControlNet{kind}Pipeline", controlnet=network)(
        image=photo, control_image=edges, strength=0.5, control_guidance_end=0.34, **masked, **SIZE
    )
    pipe = Pipeline.from_pretrained(tiny_folder, controlnets=controlnets[:1])
    draw = dict(num_images=2, seed=7, sampler="ddim", image=photo, strength=0.5, **STEPS, **SIZE)
    draw |= {"mask": mask} if masked else {}
    drawn = pipe(PROMPT, controls=[Control(edges, end=0.34)], **draw)
    assert len(drawn.timesteps) == 3
    assert difference(drawn, expected).mean() < 0.1
    longer = pipe(PROMPT, controls=[Control(edges)], **draw)
    assert difference(longer, expected).mean() > 0.3


def test_a_control_reaches_both_experts(controlnets, tiny_folder, moa_folder):
    pipe = Pipeline.from_pretrained(tiny_folder, moa_folder, controlnets=controlnets[:1])
    subjects = [portrait(1), portrait(2)]
    for strength in (0.0, 100.0):  # the prior alone, the personalized expert alone
        draw = {"moa_strength": strength, "num_inference_steps": 3, "guidance_scale": 1.0}
        free = pixels(pipe(MARKED, subjects, **draw))
        led = pixels(pipe(MARKED, subjects, controls=[Control(portrait(4))], **draw))
        assert np.abs(led - free).mean() > 3


def test_subjects_are_drawn_into_a_photo(personal):
    photo, mask = portrait(3, (64, 64)), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    draw = {"image": photo, "mask": mask, "num_inference_steps": 3}
    one = pixels(personal(MARKED, [portrait(1), portrait(2)], **draw))
    two = pixels(personal(MARKED, [portrait(6), portrait(2)], **draw))
    changed = np.abs(one - two).max(axis=(0, 3)) > 0
    assert changed[20:44, 20:44].mean() > 0.5
    around = np.ones((64, 64), bool)
    around[15:49, 15:49] = False
    assert not changed[around].any()


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (0.0, "strength=0.0: must lie above 0"),
        (1.5, "strength=1.5"),
        (0.01, "strength=0.01 of 50 steps leaves none"),
    ],
)
def test_a_strength_that_cannot_be_is_named(strength, message):
    with pytest.raises(InputError, match=message):
        skipped_steps(50, strength, inpainting=False)


def test_a_mask_or_strength_without_a_photo_is_refused(plain):
    for argument in ({"mask": portrait(1)}, {"strength": 0.5}):
        with pytest.raises(InputError, match="give image"):
            plain(PROMPT, **argument)
