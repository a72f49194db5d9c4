"""Draw the trials of a row, in batches of one size, so that one compiled program serves them all.

The prior draws each noise once, because it cannot see which person is asked for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.evaluation.toy.protocol import Protocol, Trial, references
from moa_jax.sampling.pipeline import Pipeline, Result
from moa_jax.sampling.program import decode, encode
from moa_jax.sampling.request import Request, make_request, stack
from moa_jax.sampling.settings import Settings

BATCH = 24  # pictures a call
SAMPLER = "ddim"
MAX_PEOPLE = 2

Pictures = UInt8[np.ndarray, "n 64 64 3"]


def draw(
    pipeline: Pipeline,
    trials: list[Trial],
    protocol: Protocol,
    on_batch: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Pictures:
    """Draw a picture of each trial.

    Args:
        on_batch: called with the number of pictures drawn so far and the number of all.
        **settings: how to draw, beside what the protocol says; see `Settings`.
    """
    if pipeline.model is None:
        # Reversed, so that the first trial of each noise stays.
        first = {trial.noise: trial for trial in reversed(trials)}
        alone = _draw(pipeline, [*first.values()], protocol, on_batch, **settings)
        drawn = dict(zip(first, alone, strict=True))
        return np.stack([drawn[trial.noise] for trial in trials])
    return _draw(pipeline, trials, protocol, on_batch, **settings)


def _draw(
    pipeline: Pipeline,
    trials: list[Trial],
    protocol: Protocol,
    on_batch: Callable[[int, int], None] | None,
    **settings: Any,
) -> Pictures:
    pictures = []
    for first in range(0, len(trials), BATCH):
        batch = trials[first : first + BATCH]
        padded = batch + batch[-1:] * (BATCH - len(batch))
        result = draw_batch(pipeline, padded, protocol, **settings)
        pictures += [np.asarray(image) for image in result.images[: len(batch)]]
        if on_batch:
            on_batch(len(pictures), len(trials))
    return np.stack(pictures)


def draw_batch(
    pipeline: Pipeline, trials: list[Trial], protocol: Protocol, **settings: Any
) -> Result:
    """Draw BATCH trials at once; see `draw`."""
    side = pipeline.base.unet.config["sample_size"]
    shape = (side, side, pipeline.base.vae.module.config.latent_channels)
    start = jax.random.key(protocol.seed)
    request = stack([_request(pipeline, trial) for trial in trials])
    noises = jnp.array([trial.noise for trial in trials])
    # A trial's noise depends on its number, not on its row or batch.
    keys = jax.vmap(partial(jax.random.fold_in, start))(noises)
    latents = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    chosen = Settings(protocol.steps, SAMPLER, protocol.guidance_scale, **settings)
    return pipeline.draw(request, latents, keys, chosen)


def _request(pipeline: Pipeline, trial: Trial) -> Request:
    """Prepare a trial's request, with as many places for subjects as any trial needs."""
    if pipeline.model is None:
        prepare = partial(make_request, image_size=None, max_subjects=0, plain_prompt=True)
        return prepare(pipeline.base.tokenizer, trial.caption, [], "")
    request = make_request(
        pipeline.base.tokenizer,
        trial.prompt,
        [Image.fromarray(picture) for picture in references(trial)],
        "",
        image_size=pipeline.base.image_encoder.module.config.image_size,
        max_subjects=pipeline.max_subjects,
        plain_prompt=True,  # a trial's prompt is a caption of the toy world
    )
    empty = MAX_PEOPLE - len(trial.people)
    nobody = request.input_ids.shape[1]  # a position after all tokens: no subject
    return request._replace(
        subject_images=np.pad(request.subject_images, [(0, 0), (0, empty), *[(0, 0)] * 3]),
        subject_tokens=np.pad(request.subject_tokens, [(0, 0), (0, empty)], constant_values=nobody),
    )


def through_vae(base: StableDiffusion, pictures: Pictures) -> Pictures:
    """Encode and decode pictures, to show what the VAE alone leaves of them."""
    params = {"vae": base.vae.params}

    @jax.jit
    def once(batch: jax.Array) -> jax.Array:
        return decode(base, params, encode(base, params, batch))

    padded = np.concatenate([pictures, np.repeat(pictures[-1:], -len(pictures) % BATCH, axis=0)])
    batches = [once(padded[i : i + BATCH]) for i in range(0, len(padded), BATCH)]
    return np.concatenate([np.asarray(batch) for batch in batches])[: len(pictures)]
