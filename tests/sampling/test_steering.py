"""What can be turned while drawing, and what of it compiles: strength, guidance, batches, base."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from moa_jax import Pipeline
from moa_jax.applications import edit
from moa_jax.diffusion import SAMPLERS
from moa_jax.errors import InputError
from moa_jax.sampling import compiled
from moa_jax.sampling.settings import Strength
from tests.personal import MARKED, PROMPT, pixels, portrait

SUBJECTS = [portrait(1), portrait(2)]
DRAW = {"num_inference_steps": 4, "seed": 2}


@pytest.mark.parametrize("sampler", ["unipc", "euler_a"])
def test_a_strength_of_zero_is_stable_diffusion_to_the_bit(sampler, personal, plain):
    mixed = personal(MARKED, SUBJECTS, moa_strength=0.0, sampler=sampler, **DRAW)
    prior = plain("a man and a woman in the snow", sampler=sampler, **DRAW)
    np.testing.assert_array_equal(pixels(mixed), pixels(prior))
    assert all((maps == 0.0).all() for maps in mixed.routing.values())


def test_strength_multiplies_the_routing_up_to_the_personalized_expert_alone(personal):
    def first_step(strength):
        routing = personal(MARKED, SUBJECTS, moa_strength=strength, **DRAW).routing
        return next(iter(routing.values()))[0]  # before anything it changed comes back to it

    chosen = first_step(1.0)
    np.testing.assert_allclose(first_step(0.5), 0.5 * chosen, atol=1e-6)
    np.testing.assert_allclose(first_step(1.5), np.minimum(1.5 * chosen, 1.0), atol=1e-6)
    np.testing.assert_allclose(first_step(1e6), 1.0, atol=1e-6)


def test_strength_by_layer_and_step(personal):
    dials = [Strength(0.0, "up"), Strength(0.0, end=0.5)]
    routing = personal(MARKED, SUBJECTS, moa_strength=dials, **DRAW).routing
    for path, maps in routing.items():
        assert (maps[:2] == 0.0).all()
        assert (maps[2:] == 0.0).all() == path.startswith("up"), path


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_delayed_steps_see_the_text_alone_in_every_expert(guidance_scale, personal):
    """The latents are those of the prompt without markers, until the delay is over."""

    def latents(prompt, subjects, **settings):
        ends = []
        personal(
            prompt,
            subjects,
            guidance_scale=guidance_scale,
            on_step=lambda _, each: ends.append(np.asarray(each)),
            **settings,
            **DRAW,
        )
        return ends

    alone = latents(MARKED.replace("<|image|>", ""), ())
    whole = latents(MARKED, SUBJECTS)
    late = latents(MARKED, SUBJECTS, delay=0.5)
    for step in (0, 1):
        np.testing.assert_allclose(late[step], alone[step], atol=1e-4)
        assert np.abs(late[step] - whole[step]).max() > 1e-3
    for step in (2, 3):
        assert np.abs(late[step] - alone[step]).max() > 1e-3
    # The prior is something else: the personalized expert takes part in the delayed steps too.
    prior = latents(MARKED, SUBJECTS, moa_strength=0.0)
    assert np.abs(late[0] - prior[0]).max() > 1e-3


def test_only_guidance_itself_and_what_is_watched_compile_the_networks_anew(personal):
    pipe = Pipeline(personal.base, personal.model, personal.params, 2)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    photo = {"image": portrait(3, (64, 64)), "num_inference_steps": 5}
    dials = [Strength(2.0, "up", 0.5), Strength(0.0, end=0.25)]
    calls = [
        {"num_inference_steps": 2},
        {"num_inference_steps": 4, "guidance_scale": 3.0, "guidance_rescale": 0.7},
        {"num_inference_steps": 4, "guidance_interval": (0.0, 0.5), "moa_strength": dials},
        *({"num_inference_steps": 3, "sampler": name} for name in SAMPLERS),
        {"num_inference_steps": 3, "sampler": "euler", "karras": True},
        {"num_inference_steps": 3, "sampler": "ddim", "eta": 0.5, "moa_strength": 0.3},
        {"num_inference_steps": 4, "delay": 0.5},
        {**photo, "strength": 0.6},
        {**photo, "mask": mask},
    ]
    for call in calls:
        pipe(MARKED, SUBJECTS, negative_prompt="snow", **call)
    programs = (pipe._condition, pipe._predict, pipe._decode)
    assert [program._cache_size() for program in programs] == [1, 1, 1]
    pipe(MARKED, SUBJECTS, num_inference_steps=2, guidance_scale=1.0)
    edit(pipe, photo["image"], MARKED, SUBJECTS, source_prompt=MARKED, source_subjects=SUBJECTS,
         mask=mask, num_inference_steps=3, iterations=2)  # fmt: skip
    assert [program._cache_size() for program in programs] == [2, 2, 1]
    pipe(MARKED, SUBJECTS, num_inference_steps=2, watch=True)
    assert pipe._predict._cache_size() == 3
    for below in (0.1, 0.2):
        pipe(MARKED, SUBJECTS, num_inference_steps=2, capacity=0.5, skip_below=below)
    assert pipe._predict._cache_size() == 4


def test_all_but_the_vae_is_compiled_with_the_convolutions_of_this_machine(monkeypatch, personal):
    chosen, given = {"xla_an_option": "1"}, []

    def jit(function, **options):
        name = getattr(function, "func", function).__name__
        given.append((name, options.get("compiler_options")))
        return function

    monkeypatch.setattr(compiled, "convolution_options", lambda: chosen)
    monkeypatch.setattr(jax, "jit", jit)
    Pipeline(personal.base, personal.model, personal.params, 2)
    programs = dict(given)
    assert programs.keys() >= {"condition", "predict", "embed", "encode_subjects"}
    for name, options in programs.items():
        assert options == (None if name in ("encode", "decode", "keep") else chosen)


def test_without_guidance_the_negative_prompt_is_not_looked_at(plain):
    for scale in (0.0, 1.0):
        one = plain(PROMPT, negative_prompt="snow", guidance_scale=scale, **DRAW)
        two = plain(PROMPT, negative_prompt="a woman", guidance_scale=scale, **DRAW)
        np.testing.assert_array_equal(pixels(one), pixels(two))


def test_guidance_outside_its_interval_is_none(plain):
    """Guided in the last step alone, all but the last latents are those of no guidance."""
    free = plain(PROMPT, guidance_scale=1.0, **DRAW)
    late = plain(PROMPT, guidance_scale=9.0, guidance_interval=(0.75, 1.0), **DRAW)
    always = plain(PROMPT, guidance_scale=9.0, **DRAW)
    least, most = (np.abs(pixels(each) - pixels(free)).mean() for each in (late, always))
    assert 0.0 < least < 0.5 * most


def test_batches_of_any_size_draw_the_same_pictures(personal):
    draw = {"num_images": 3, "sampler": "euler_a", "watch": True, **DRAW}
    whole = personal(MARKED, SUBJECTS, **draw)
    parts = personal(MARKED, SUBJECTS, batch_size=2, **draw)
    assert np.abs(pixels(whole) - pixels(parts)).max() <= 1
    for found, expected in ((parts.routing, whole.routing), (parts.attention, whole.attention)):
        assert found.keys() == expected.keys() and expected
        for path, maps in expected.items():
            np.testing.assert_allclose(found[path], maps, atol=1e-4)


def test_the_attention_to_each_subject_can_be_watched(personal):
    watched = personal(MARKED, SUBJECTS, watch=True, **DRAW)
    assert watched.attention.keys() == {path for path in watched.routing if "attn2" in path}
    for path, maps in watched.attention.items():
        assert maps.shape == (*watched.routing[path].shape, 2)
        assert maps.min() >= 0.0 and 0.0 < maps.sum(axis=-1).max() <= 1.0
    assert personal(MARKED, SUBJECTS, **DRAW).attention == {}


def test_the_same_person_twice_and_beside_plain_words(personal):
    twice = personal(MARKED, [SUBJECTS[0]] * 2, **DRAW)
    beside = personal("a man <|image|> and a woman in the snow", SUBJECTS[:1], **DRAW)
    assert np.abs(pixels(twice) - pixels(beside)).mean() > 0.5


def test_four_subjects_and_each_of_them_counts(personal):
    four = Pipeline(personal.base, personal.model, personal.params, max_subjects=4)
    prompt = "a man <|image|> and a woman <|image|> and a kid <|image|> and a man <|image|>"
    subjects = [portrait(seed) for seed in range(1, 5)]
    all_four = pixels(four(prompt, subjects, **DRAW))
    for place in range(4):
        swapped = [*subjects[:place], portrait(9), *subjects[place + 1 :]]
        assert np.abs(pixels(four(prompt, swapped, **DRAW)) - all_four).max() > 1


@pytest.mark.parametrize("steps", [1, 1000])
def test_one_and_a_thousand_steps(steps, plain):
    picture = pixels(plain(PROMPT, num_inference_steps=steps, guidance_scale=1.0))
    assert picture.std() > 5


def test_an_empty_prompt_is_a_prompt(plain):
    assert pixels(plain("", **DRAW)).std() > 5


def test_weights_of_another_base_are_tried_when_that_is_asked_for(
    tiny_folder, moa_folder, personal, tmp_path
):
    """A fine-tuned checkpoint: here one with another weight in its U-Net."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "tuned"
    shutil.copytree(tiny_folder, folder)
    file = next((folder / "unet").glob("*.safetensors"))
    weights = load_file(file)
    weights["conv_out.bias"] = weights["conv_out.bias"] + 0.5
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="was trained on the unet of.*--allow-other-base"):
        Pipeline.from_pretrained(folder, moa_folder)
    with pytest.warns(UserWarning, match="drawing all the same"):
        tuned = Pipeline.from_pretrained(folder, moa_folder, allow_other_base=True)
    one, two = (pixels(pipe(MARKED, SUBJECTS, **DRAW)) for pipe in (personal, tuned))
    assert np.abs(one - two).mean() > 0.5
    added = jax.tree.map(np.array_equal, tuned.params["prompt"], personal.params["prompt"])
    assert all(jax.tree.leaves(added))
