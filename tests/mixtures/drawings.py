"""A drawing by the committed weights of the toy world, for what works on recorded routing."""

from functools import cache

import numpy as np
from PIL import Image

from moa_jax.evaluation.toy.command import MOA_WEIGHTS
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld.world.people import draw_look
from moa_jax.toyworld.world.scenes import render_portrait
from tests.toyworld.test_weights import BASE


@cache
def routing_of_a_drawing():
    """The personalized weights of four pictures of a woman on the beach, in 12 steps, by layer."""
    pipe = Pipeline.from_pretrained(BASE, MOA_WEIGHTS)
    subject = Image.fromarray(render_portrait(draw_look(np.random.default_rng(5), "woman")))
    prompt = "a woman <|image|> on the beach by day"
    options = {"num_images": 4, "num_inference_steps": 12, "guidance_scale": 2.5}
    return pipe(prompt, [subject], **options).routing
