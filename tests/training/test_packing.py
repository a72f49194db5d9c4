"""Encoding the subjects that are there gives what encoding every slot gives."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import MeshConfig
from moa_jax.planning.collectives import collectives
from moa_jax.planning.flops import matrix_flops
from moa_jax.planning.hlo import parse
from moa_jax.training.mesh import make_mesh, place_batch
from moa_jax.training.packing import Packing
from tests.training.tiny import gradient_of, gradient_run, random_batch, relative_error

SHARES = (1.0, 0.5)
DEVICES, ROWS, SLOTS, SIDE = 2, 8, 3, 2


def look(images):
    """A picture's mean in each colour; as of no picture if it were not encoded."""
    return images.astype(jnp.float32).mean(axis=(2, 3)) + 1


@pytest.fixture
def images():
    shape = (ROWS, SLOTS, SIDE, SIDE, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("there", [0.0, 0.2, 0.6, 1.0])
def test_features_are_the_same_whatever_the_share_and_wherever_subjects_are(images, share, there):
    present = np.random.default_rng(1).random((ROWS, SLOTS)) < there
    features = jax.jit(partial(Packing(share, DEVICES).encode, look))(images, present)
    np.testing.assert_array_equal(features[present], look(images)[present])
    if share < 1:
        assert not np.asarray(features)[~present].any()


def test_the_share_is_encoded_and_more_only_if_a_device_has_more(images):
    counts = []

    def counted(pictures):
        jax.debug.callback(lambda _: counts.append(pictures.shape[:2]), pictures[0, 0, 0, 0, 0])
        return look(pictures)

    pack = jax.jit(partial(Packing(0.5, DEVICES).encode, counted))
    present = np.zeros((ROWS, SLOTS), bool)
    present[: ROWS // 2, 0] = present[0] = True  # the first device has six, as many as it encodes
    jax.block_until_ready(pack(images, present))
    jax.effects_barrier()
    assert counts == [(DEVICES, 6)]
    present[1, 1] = True  # one more
    jax.block_until_ready(pack(images, present))
    jax.effects_barrier()
    assert sorted(counts[1:]) == [(DEVICES, 6), (DEVICES, 6)]


def test_gradients_are_the_same(tiny):
    batch = random_batch(3)
    images, present = jnp.asarray(batch["subject_images"]), batch["subject_present"]

    @partial(jax.jit, static_argnums=1)
    def gradient(params, share, present):
        def total(params):
            look = partial(tiny.model.encode_subjects, params)
            features = Packing(share).encode(look, images, present)
            return jnp.sum(jnp.square(jnp.where(present[..., None], features, 0)))

        return jax.grad(total)(params)

    params = {"image_encoder": tiny.params["image_encoder"]}
    for here in (present, np.ones_like(present)):  # half of the slots hold the first, not these
        one, other = (gradient(params, share, here) for share in SHARES)
        assert relative_error(other, one) < 1e-5


@pytest.fixture(scope="module")
def packed(tiny, config, one_device):
    """A step's gradients when half of the slots are encoded at once."""
    model = dataclasses.replace(config.model, subject_share=0.5)
    return gradient_run(tiny, dataclasses.replace(config, model=model), one_device)


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_a_step_is_the_same(gradient, packed, full):
    batch = random_batch(3)
    if full:  # two subjects in each picture: more than half of the slots
        batch["subject_present"][:] = True
        batch["subject_tokens"][:] = [2, 5]
    (one, numbers), (other, others) = (gradient_of(run, batch) for run in (gradient, packed))
    assert relative_error(other, one) < 1e-5
    for name in numbers:
        np.testing.assert_allclose(others[name], numbers[name], rtol=1e-5, atol=1e-7)


def test_nothing_of_the_batch_is_sent_and_less_is_computed(tiny):
    mesh = make_mesh(MeshConfig(preset="fsdp"))
    batch = place_batch(mesh, random_batch(0, size=16))
    shown = {name: batch[name] for name in ("subject_images", "subject_present")}
    look = partial(tiny.model.encode_subjects, tiny.params)

    def compiled(share):
        packing = Packing(share, mesh.size)

        def encode(shown):
            return packing.encode(look, shown["subject_images"], shown["subject_present"])

        return parse(jax.jit(encode).lower(shown).compile().as_text())

    whole, half = compiled(1.0), compiled(0.5)
    assert matrix_flops(half) == pytest.approx(matrix_flops(whole) / 2)
    sent = collectives(half)  # whether any device has more
    assert [(one.kind, one.numbers) for one in sent] == [("all-reduce", 1)]
    assert not collectives(whole)
