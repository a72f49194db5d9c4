"""A batch that is shared by devices gives the pictures that one device draws."""

import jax
import numpy as np
import pytest

from moa_jax import Pipeline

ASKED = {"prompt": "a man", "num_inference_steps": 2, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def spread(tiny_folder):
    pipeline = Pipeline.from_pretrained(tiny_folder)
    pipeline.spread(jax.local_devices()[:2])
    return pipeline


@pytest.mark.slow
@pytest.mark.parametrize(("count", "rows"), [(2, 1), (3, 3)])
def test_devices_draw_the_same(spread, plain, count, rows, monkeypatch):
    """Two devices draw one each of two pictures; what they do not divide, each draws entirely."""
    shares = []

    def fetch(arrays, own=spread.fetch):
        shares.extend(shard.data.shape[0] for shard in arrays[0].addressable_shards)
        return own(arrays)

    decoded = []

    def decode(params, latents, *, shards, own=spread._decode):
        decoded.append(shards)
        return own(params, latents, shards=shards)

    monkeypatch.setattr(spread, "fetch", fetch)
    monkeypatch.setattr(spread, "_decode", decode)
    found, expected = (each(num_images=count, **ASKED).images for each in (spread, plain))
    assert shares == [rows, rows]
    assert decoded == [count // rows]
    for one, other in zip(found, expected, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
