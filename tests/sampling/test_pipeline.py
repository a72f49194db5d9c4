"""Text to image against diffusers, and what a person who calls the pipeline relies on."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax import Pipeline
from moa_jax.data.captions import IMAGE_MARKER
from moa_jax.errors import InputError
from moa_jax.sampling import program
from moa_jax.sampling.control import Control
from moa_jax.sampling.program import Networks, condition, predict
from moa_jax.sampling.request import make_request
from moa_jax.sampling.settings import Steered
from moa_jax.sampling.start import latent_shape, picture_keys, standard_noise
from tests.personal import MARKED, PROMPT, pixels, portrait


@pytest.mark.parametrize(
    ("folder", "guidance", "size", "negative"),
    [
        ("tiny_folder", 5.0, (64, 64), ""),
        ("tiny_folder", 7.5, (48, 72), "a woman"),
        ("tiny_folder", 1.0, (64, 64), ""),
        ("tiny_folder_v2", 5.0, (56, 64), "snow"),
    ],
)
def test_text_to_image_is_diffusers(folder, guidance, size, negative, request):
    torch = pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    folder = request.getfixturevalue(folder)
    shape = (2, size[0] // 8, size[1] // 8, 4)
    latents = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    oracle = StableDiffusionPipeline.from_pretrained(folder)
    oracle.set_progress_bar_config(disable=True)
    expected = oracle(
        PROMPT,
        negative_prompt=negative,
        num_images_per_prompt=2,
        num_inference_steps=7,
        guidance_scale=guidance,
        height=size[0],
        width=size[1],
        latents=torch.tensor(latents).permute(0, 3, 1, 2),
    )
    drawn = Pipeline.from_pretrained(folder)(
        PROMPT,
        negative_prompt=negative,
        num_images=2,
        num_inference_steps=7,
        guidance_scale=guidance,
        height=size[0],
        width=size[1],
        latents=latents,
        sampler="ddim",
    )
    assert np.asarray(expected.images[0]).std() > 5, "a flat picture would prove nothing"
    difference = np.abs(pixels(drawn) - pixels(expected))
    assert difference.mean() <= 1
    assert (difference > 2).mean() < 1e-3
    assert drawn.routing == {}


def test_a_picture_of_a_seed_is_the_same_in_any_batch(personal):
    subjects = [portrait(1), portrait(2)]
    three = pixels(personal(MARKED, subjects, num_images=3, num_inference_steps=3, seed=5))
    two = pixels(personal(MARKED, subjects, num_images=2, num_inference_steps=3, seed=5))
    other = pixels(personal(MARKED, subjects, num_images=2, num_inference_steps=3, seed=6))
    assert np.abs(three[:2] - two).max() <= 1  # another batch size may round otherwise
    assert np.abs(two - other).mean() > 5
    assert np.abs(three[0] - three[1]).mean() > 5


def test_a_subject_changes_the_picture_and_the_result_tells_where(personal):
    first = personal(MARKED, [portrait(1), portrait(2)], num_images=2, num_inference_steps=4)
    swapped = personal(MARKED, [portrait(3), portrait(2)], num_images=2, num_inference_steps=4)
    assert np.abs(pixels(first) - pixels(swapped)).mean() > 0.5
    # Three resolutions of latents (8x8, and 4x4 in the middle), two layers in each of 4 blocks.
    assert len(first.routing) == 8
    assert len(first.timesteps) == 4
    shapes = {weights.shape for weights in first.routing.values()}
    assert shapes == {(4, 2, 8, 8), (4, 2, 4, 4)}
    for weights in first.routing.values():
        assert 0 <= weights.min() < weights.max() <= 1


def test_moa_weights_held_back_by_the_routers_draw_the_priors_picture(personal, plain):
    """With every router's bias far on the prior's side, subjects cannot show."""

    def hold(path, leaf):
        keys = jax.tree_util.keystr(path)
        if "router" not in keys:
            return leaf
        return jnp.array([1000.0, -1000.0]) if "bias" in keys else 0 * leaf

    held = Pipeline(
        personal.base, personal.model, jax.tree_util.tree_map_with_path(hold, personal.params), 2
    )
    subjects = [portrait(1), portrait(2)]
    mixed = held(MARKED, subjects, num_images=2, num_inference_steps=4, seed=2)
    text = "a man and a woman in the snow"
    prior = plain(text, num_images=2, num_inference_steps=4, seed=2)
    np.testing.assert_array_equal(pixels(mixed), pixels(prior))


def test_guidance_leads_away_from_a_prompt_without_subjects(personal):
    """The negative half of the batch must not change with the subjects' pictures."""
    latents, timesteps = jax.random.normal(jax.random.key(0), (1, 8, 8, 4)), jnp.array([500.0])
    networks = Networks(personal.base, personal.model)

    @jax.jit
    def at_scale(request, scale):
        conditions = condition(networks, personal.params, request, guided=True)
        steered = Steered(scale, 0.0)
        return predict(networks, personal.params, conditions, steered, latents, timesteps)[0]

    def halves(*subjects):
        options = {"image_size": 32, "max_subjects": 2}
        request = make_request(personal.base.tokenizer, MARKED, subjects, "", **options)
        return at_scale(request, 0.0), at_scale(request, 1.0)

    negative, positive = halves(portrait(1), portrait(2))
    negative_of_others, positive_of_others = halves(portrait(3), portrait(4))
    np.testing.assert_array_equal(negative, negative_of_others)
    assert np.abs(positive - positive_of_others).max() > 1e-3


def test_steps_are_reported_as_they_finish(plain):
    seen = []
    steps = {"num_inference_steps": 5}
    drawn = plain(PROMPT, **steps, on_step=lambda step, latents: seen.append((step, latents)))
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4]
    # Each step comes with its own latents, and the last with those of the picture.
    np.testing.assert_array_equal(plain.decode(seen[-1][1])[0], drawn.images[0])
    assert len({np.asarray(latents).tobytes() for _, latents in seen}) == 5


def test_a_drawing_is_stopped_by_what_on_step_raises(plain):
    seen = []

    def stop(step, latents):
        seen.append(step)
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain(PROMPT, num_inference_steps=5, on_step=stop)
    assert seen == [0, 1]


def test_latents_are_taken_as_given(plain):
    latents = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32)
    one = pixels(plain(PROMPT, num_inference_steps=3, latents=latents, seed=1))
    two = pixels(plain(PROMPT, num_inference_steps=3, latents=latents, seed=2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_bfloat16_draws_nearly_the_same(tiny_folder, moa_folder, personal):
    half = Pipeline.from_pretrained(tiny_folder, moa_folder, dtype="bfloat16")
    assert half.dtype == jnp.bfloat16
    routers, others = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(half.params):
        (routers if "router" in jax.tree_util.keystr(path) else others).append(leaf.dtype)
    assert set(routers) == {jnp.dtype("float32")}
    assert set(others) == {jnp.dtype("bfloat16")}
    arguments = (MARKED, [portrait(1), portrait(2)])
    drawn = pixels(half(*arguments, num_inference_steps=3))
    exact = pixels(personal(*arguments, num_inference_steps=3))
    another = pixels(personal(*arguments, num_inference_steps=3, seed=1))
    assert np.abs(drawn - exact).mean() < 0.3 * np.abs(another - exact).mean()


def test_a_prompt_too_long_is_a_warning_that_quotes_what_is_lost(plain):
    cut = "prompt is longer than 77 tokens.*'and a woman'; draw without plain_prompt"
    with pytest.warns(UserWarning, match=cut):
        plain("snow " * 75 + "and a woman", plain_prompt=True, num_inference_steps=1)
    cut = "negative_prompt is longer than 4 windows of 77 tokens.*'and a woman'; shorten it"
    with pytest.warns(UserWarning, match=cut):
        plain.request("snow", (), "snow " * 300 + "and a woman")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": MARKED, "subjects": [portrait(1)]}, "has 2 <|image|> and 1 subject"),
        ({"prompt": PROMPT, "subjects": [portrait(1)]}, "has 0 <|image|> and 1 subject"),
        (
            {
                "prompt": f"a {IMAGE_MARKER} b {IMAGE_MARKER} c {IMAGE_MARKER}",
                "subjects": [portrait(1)] * 3,
            },
            "at most 2",
        ),
        ({"prompt": f"{IMAGE_MARKER} a man", "subjects": [portrait(1)]}, "no word before it"),
        ({"height": 60}, "height=60: must be a positive multiple of 8, e.g. 64"),
        ({"width": 0}, "width=0"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"num_images": 0}, "num_images=0"),
        ({"sampler": "heun"}, "sampler='heun': must be one of ddim"),
        ({"karras": True, "sampler": "ddim"}, "does not take karras=True"),
        ({"guidance_rescale": 2.0}, "guidance_rescale=2.0"),
        ({"guidance_interval": (0.5, 0.2)}, "needs 0 <= start < end <= 1"),
        ({"moa_strength": -1.0}, "moa_strength=-1.0"),
        ({"controls": [Control("nowhere.png")]}, "1 control(s) are given and 0 ControlNet(s)"),
        ({"latents": np.zeros((1, 4, 4, 4), np.float32)}, "need (1, 8, 8, 4)"),
        ({"prompt": f"a man {IMAGE_MARKER}", "subjects": ["nowhere.png"]}, "nowhere.png"),
    ],
)
def test_a_wrong_argument_is_named_with_the_remedy(personal, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        personal(**{"prompt": PROMPT, **arguments})


def test_subjects_need_moa(plain):
    with pytest.raises(InputError, match="no MoA weights are loaded"):
        plain(f"a man {IMAGE_MARKER}", [portrait(1)])


def test_moa_weights_are_refused_on_another_base(tiny_folder_v2, tiny_folder, moa_folder):
    with pytest.raises(InputError, match="was trained on"):
        Pipeline.from_pretrained(
            tiny_folder_v2, moa_folder, image_encoder=tiny_folder / "image_encoder"
        )


def test_moa_needs_an_image_encoder(tiny_folder_v2, moa_folder):
    with pytest.raises(InputError, match=r"no image encoder.*model.image_encoder="):
        Pipeline.from_pretrained(tiny_folder_v2, moa_folder)


def test_pictures_are_decoded_in_turn_where_they_are_large(plain, monkeypatch):
    """One picture at a time holds the maps of one, and gives the same pixels."""
    shape = latent_shape(plain.base, None, None, 4)
    latents = standard_noise(picture_keys(0, 4), shape)

    def compiled():
        function = jax.jit(partial(program.decode, plain.base))
        return function.lower(plain.params, latents).compile()

    together = compiled()
    monkeypatch.setattr(program, "DECODED", 1)
    in_turn = compiled()
    held = [each.memory_analysis().temp_size_in_bytes for each in (in_turn, together)]
    assert held[0] < 0.5 * held[1]
    found, expected = (np.asarray(each(plain.params, latents), int) for each in (in_turn, together))
    assert np.abs(found - expected).max() <= 1
