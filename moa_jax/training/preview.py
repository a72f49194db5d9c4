"""Pictures of a run: a few examples of the data, drawn again with the current weights.

Each preview has the same prompts, subjects and initial noise, so that two of them differ only by
what was learned in between.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.config import Config, TrainConfig
from moa_jax.data.buckets import Buckets
from moa_jax.data.captions import encode_caption
from moa_jax.figures import Preview, mean_weights, preview_figure
from moa_jax.method.model import MoA
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.sampling.request import Request
from moa_jax.sampling.settings import Settings
from moa_jax.training.feed import open_data
from moa_jax.training.hosts import first, gathered
from moa_jax.training.step import stream

SHOWN = 4  # pictures in a preview


def open_preview(
    config: Config,
    base: StableDiffusion,
    model: MoA,
    folder: Path,
    buckets: Buckets | None = None,
) -> Callable[[int, Any], None] | None:
    """Choose what the previews show: the data's first pictures, without augmentation or dropout.

    All hosts draw the same pictures together. Without `train.sample_every` there are none. With
    buckets, the pictures are of the size that most of the data have, so that one program draws
    them.
    """
    if config.train.sample_every is None:
        return None
    plain = {
        "augment": False,
        "encoded": None,
        "latents": None,
        "resident": False,
        "condition_dropout": 0.0,
        "subject_dropout": 0.0,
    }
    data = dataclasses.replace(config.data, **plain)
    # Only the pictures that are shown are read, because the first step waits for this.
    count = min(SHOWN, config.train.batch_size)
    run = dataclasses.replace(config.train, batch_size=count)
    if buckets:
        buckets = dataclasses.replace(
            buckets, members={buckets.commonest: buckets.members[buckets.commonest]}
        )
    loader = open_data(dataclasses.replace(config, data=data, train=run), base, buckets=buckets)
    examples = next(loader)
    loader.close()
    pipeline = Pipeline(base, model, None, config.method.max_subjects)
    return make_preview(pipeline, examples, config.train, folder)


def make_preview(
    pipeline: Pipeline, examples: Mapping[str, np.ndarray], config: TrainConfig, folder: Path
) -> Callable[[int, Any], None]:
    """Prepare to draw `examples`; the returned function writes `step_N.png` to `folder`.

    Args:
        examples: a batch of the training data; its first SHOWN pictures are drawn.
    """
    pipeline.fetch = gathered  # every host draws, because each holds a part of the weights
    shown = {key: array[:SHOWN] for key, array in examples.items()}
    request = _request(pipeline.base.tokenizer, shown)
    keys = jax.random.split(stream(config.seed, "preview"), len(shown["image"]))
    height, width = (side // pipeline.downscale for side in shown["image"].shape[1:3])
    channels = pipeline.base.vae.module.config.latent_channels
    draw = jax.vmap(lambda key: jax.random.normal(key, (height, width, channels)))
    latents = np.asarray(draw(keys))

    def preview(step: int, params: Any) -> None:
        pipeline.params = params
        result = pipeline.draw(request, latents, keys, Settings(config.sample_steps))
        rows = [
            Preview(
                target=Image.fromarray(shown["image"][row]),
                subjects=_subjects(shown, row),
                generated=picture,
                weights=mean_weights(result.routing, row),
                caption=_caption(pipeline.base.tokenizer, shown["input_ids"][row]),
            )
            for row, picture in enumerate(result.images)
        ]
        if not first():
            return
        folder.mkdir(parents=True, exist_ok=True)
        preview_figure(rows, title=f"step {step}").save(folder / f"step_{step:06d}.png")

    return preview


def _request(tokenizer: Any, examples: Mapping[str, np.ndarray]) -> Request:
    empty = encode_caption(tokenizer, "").input_ids
    return Request(
        input_ids=examples["input_ids"],
        negative_ids=np.repeat(empty[None], len(examples["input_ids"]), axis=0),
        subject_images=examples["subject_images"],
        subject_tokens=examples["subject_tokens"],
    )


def _subjects(examples: Mapping[str, np.ndarray], row: int) -> list[Image.Image]:
    pictures = zip(examples["subject_images"][row], examples["subject_present"][row], strict=True)
    return [Image.fromarray(picture) for picture, present in pictures if present]


def _caption(tokenizer: Any, input_ids: np.ndarray) -> str:
    return tokenizer.decode(input_ids, skip_special_tokens=True).strip()
