"""The toy world's style and ControlNet: what their training changes, and what the files do."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from moa_jax.backbone.controlnet import ControlNet, ControlNetConfig, load_controlnet
from moa_jax.backbone.lora import match_lora, read_lora
from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.config import MeshConfig
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.evaluation.toy.command import MOA_WEIGHTS
from moa_jax.sampling.control import Control
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld.pretraining import addons
from moa_jax.toyworld.pretraining.denoising import denoising_objective, encode_pictures
from moa_jax.toyworld.pretraining.recipe import OutlineRecipe, StyleRecipe
from moa_jax.toyworld.readers.reading import Readers
from moa_jax.toyworld.world.people import draw_look
from moa_jax.toyworld.world.scenes import SIZE, render, render_portrait, training_scene
from moa_jax.training.mesh import make_mesh
from tests.backbone.controls import make_inputs, to_torch, worst
from tests.toyworld.test_weights import BASE, HELD_OUT

DRAW = {"num_inference_steps": 12, "guidance_scale": 2.5, "num_images": 4, "seed": 3}
SHORT = """
    world.count=16
    style.steps=12 style.warmup_steps=1 style.log_every=4 style.ema_decay=none
    outline.steps=12 outline.warmup_steps=1 outline.log_every=4 outline.ema_decay=none
""".split()


@pytest.fixture(scope="module")
def base():
    return load_stable_diffusion(BASE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Twelve steps of each training, by the command line."""
    patch = pytest.MonkeyPatch()
    patch.setattr(addons, "Addons", partial(addons.Addons, devices=jax.devices()[:1]))
    output = tmp_path_factory.mktemp("addons")
    assert addons.main([str(output), *SHORT]) == 0
    patch.undo()
    return output


def measure(base, predict, params, pictures, scenes, masks):
    """The denoising loss of 16 scenes, at timesteps and noises that are always the same."""
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    (latents,) = encode_pictures(base.vae, np.stack(pictures), mesh)
    ids = [base.tokenizer(each.caption, padding="max_length").input_ids for each in scenes]
    batch = {
        "latents": latents,
        "input_ids": np.int32(ids),
        "masks": jnp.stack([jnp.pad(each, [(0, 2 - len(each)), (0, 0), (0, 0)]) for each in masks]),
    }
    schedule = NoiseSchedule.from_config(base.scheduler_config)
    objective = denoising_objective(
        base.text_encoder.module, predict, schedule, 0.0, batch["input_ids"][0]
    )
    frozen = {"unet": base.unet.params, "text_encoder": base.text_encoder.params}
    keys = jax.random.split(jax.random.key(0), len(scenes))

    @jax.jit
    def compute(params, batch):
        params = {**params, **frozen}
        return objective(params, params, batch, keys)[0]

    return [float(compute(each, batch)) for each in params]


@pytest.fixture(scope="module")
def examples():
    """The scenes that a dozen steps see twelve times."""
    scenes = [training_scene(0, row) for row in range(16)]
    return scenes, *zip(*map(render, scenes), strict=True)


@pytest.mark.slow
def test_a_dozen_steps_lower_the_loss_of_the_style(base, trained, examples):
    scenes, pictures, masks = examples
    first = addons.first_factors(base.unet.params, 8, np.random.default_rng(0))
    layers = read_lora(trained / "style.safetensors").layers
    last = {name: {"down": each.down, "up": each.up} for name, each in layers.items()}
    pictures = addons.cyanotype(np.stack(pictures), StyleRecipe())
    predict = addons.predict_in_style(base.unet.module)
    losses = measure(base, predict, [{"style": first}, {"style": last}], pictures, scenes, masks)
    assert losses[1] < losses[0] - 0.01, losses


@pytest.mark.slow
def test_a_dozen_steps_lower_the_loss_within_outlines(base, trained, examples):
    scenes, pictures, masks = examples
    network = load_controlnet(trained / "outline")
    unet = base.unet
    first = addons.first_controlnet(network.module, unet.params, np.random.default_rng(0))
    params = [{"outline": first}, {"outline": network.params}]
    predict = addons.predict_in_outline(unet.module, network.module)
    losses = measure(base, predict, params, np.stack(pictures), scenes, masks)
    assert losses[1] < losses[0] - 0.001, losses


def test_outlines_are_the_outermost_pixels_of_each_person():
    masks = np.zeros((1, 3, 8, 8), bool)  # two people side by side, and nobody
    masks[0, 0, 2:7, 1:4] = masks[0, 1, 2:7, 4:8] = True
    inner = np.zeros((8, 8), bool)
    inner[3:6, 2:3] = inner[3:6, 5:7] = True
    expected = masks.any(axis=1) & ~inner
    found = addons.outlines(jnp.asarray(masks))
    np.testing.assert_array_equal(found, 255 * np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.slow
def test_both_trainings_start_from_the_base_model_itself(base):
    """Factors that change nothing, and a ControlNet that is a copy and finds nothing."""
    unet, random = base.unet, np.random.default_rng(0)
    merged = addons.merge_factors(unet.params, addons.first_factors(unet.params, 4, random))
    jax.tree.map(np.testing.assert_array_equal, merged, unet.params)
    config = addons.controlnet_config(unet.config, OutlineRecipe())
    module = ControlNet(ControlNetConfig.from_dict(config))
    params = addons.first_controlnet(module, unet.params, random)
    for name in ("conv_in", "down_blocks.0.attentions.0", "mid_block.resnets.1"):
        jax.tree.map(np.testing.assert_array_equal, params[name], unet.params[name])
    found = jax.jit(module.apply)(
        {"params": params}, *map(jnp.asarray, make_inputs(module.config, (8, 8)))
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))


def test_the_style_changes_every_attention_projection_of_the_unet_and_nothing_else(base):
    changes = match_lora({"unet": base.unet.params}, read_lora(addons.STYLE))
    layers = addons.first_factors(base.unet.params, 8, np.random.default_rng(0))
    assert len(changes) == len(layers) == 7 * 2 * 4
    assert {path[-2] for path in changes} == set(addons.ATTENTION)


def test_diffusers_finds_the_same_from_the_committed_controlnet():
    torch = pytest.importorskip("torch")
    import diffusers

    ours = load_controlnet(addons.OUTLINE)
    theirs = diffusers.ControlNetModel.from_pretrained(addons.OUTLINE, torch_dtype=torch.float32)
    inputs = make_inputs(ours.module.config, (8, 8))
    with torch.no_grad():
        skips, middle = theirs(*to_torch(*inputs), return_dict=False)
    assert (
        worst(jax.jit(ours.module.apply)({"params": ours.params}, *inputs), skips, middle) <= 1e-5
    )


def test_the_files_are_small():
    files = [addons.STYLE, *addons.OUTLINE.iterdir()]
    assert sum(file.stat().st_size for file in files) < 5e6


@pytest.fixture(scope="module")
def world():
    """One pipeline with everything: without subjects it draws with the prior alone."""
    pipe = Pipeline.from_pretrained(BASE, MOA_WEIGHTS, controlnets=[addons.OUTLINE])
    return SimpleNamespace(pipe=pipe, params=pipe.params, readers=Readers.load())


BLANK = np.zeros((SIZE, SIZE, 3), np.uint8)


def draw(world, prompt, subjects=(), control=BLANK, scale=0.0):
    """Four pictures, always by the same program."""
    controls = [Control(Image.fromarray(control), scale)]
    return np.stack(world.pipe(prompt, subjects, controls=controls, **DRAW).images)


def draw_styled(world, experts, *arguments):
    world.pipe.add_lora(addons.STYLE, experts=experts)
    pictures = draw(world, *arguments)
    world.pipe.params = world.params
    return pictures


def colour_beside_the_ink(pictures):
    """How far each pixel is from all mixtures of ink and paper, in grey levels."""
    recipe = StyleRecipe()
    ink, paper = 255 * np.array(recipe.ink), 255 * np.array(recipe.paper)
    way = (paper - ink) / np.linalg.norm(paper - ink)
    beside = pictures - ink - ((pictures - ink) @ way)[..., None] * way
    return np.linalg.norm(beside, axis=-1)


@pytest.mark.slow
def test_the_style_prints_the_prior_in_one_ink(world):
    prompt = "a woman and a man in the garden at sunset"
    plain, styled = draw(world, prompt), draw_styled(world, "prior", prompt)
    before, after = (colour_beside_the_ink(each).mean() for each in (plain, styled))
    assert after < 0.5 * before, (before, after)


@pytest.mark.slow
def test_a_styled_personalized_expert_prints_the_person_and_leaves_the_place(world):
    portrait = Image.fromarray(render_portrait(draw_look(np.random.default_rng(5), "woman")))
    scene = ("a woman <|image|> waving in the garden by day", [portrait])
    plain, styled = draw(world, *scene), draw_styled(world, "personalized", *scene)
    people = np.stack([reading.mask for reading in world.readers.read(plain)])
    before, after = (colour_beside_the_ink(each) for each in (plain, styled))
    person, place = (after[where].mean() / before[where].mean() for where in (people, ~people))
    assert person < 0.8 and 1 - place < 0.3 * (1 - person), (person, place)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 16])
def test_people_stand_where_the_outline_says(world, index):
    scene = training_scene(HELD_OUT, index)
    masks = render(scene)[1]
    outline = np.asarray(addons.outlines(jnp.asarray(masks)))
    overlaps = [
        np.mean([overlap(reading.mask, masks.any(axis=0)) for reading in world.readers.read(drawn)])
        for drawn in (draw(world, scene.caption, (), outline, scale) for scale in (0.0, 1.0))
    ]
    assert overlaps[1] > 0.8 and overlaps[1] > overlaps[0] + 0.1, overlaps


def overlap(one, other):
    """Intersection over union."""
    return (one & other).sum() / (one | other).sum()
