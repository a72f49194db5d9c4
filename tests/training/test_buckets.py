"""Buckets in training: read on hosts in parts, encoded, compiled once each, counted."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import Config, DataConfig, MeshConfig, MethodConfig
from moa_jax.data.augment import crop_target
from moa_jax.data.encoded import EncodedRecords
from moa_jax.data.images import load_image
from moa_jax.data.loader import make_loader
from moa_jax.errors import InputError
from moa_jax.training import run as training
from moa_jax.training.encoding import ensure_encoded
from moa_jax.training.feed import batch_shapes, batch_sizes, open_buckets, side_unit
from moa_jax.training.hosts import divided
from moa_jax.training.kept import check_kept
from moa_jax.training.mesh import (
    jit_step,
    make_mesh,
    place_batch,
    place_batch_shapes,
    place_weights,
)
from moa_jax.training.objective import encode
from moa_jax.training.throughput import Throughput
from tests.data.shapes import RESOLUTION, SQUARE, TALL, WIDE, shapes

__all__ = ["shapes"]  # a fixture


@pytest.fixture
def bucketed(shapes):
    data = DataConfig(path=str(shapes), resolution=RESOLUTION, buckets=True, max_bad_fraction=0.1)
    method = MethodConfig(max_subjects=2, image_encoder_layers=0)
    return Config(data=dataclasses.replace(data, augment=False, workers=2), method=method)


def test_the_sizes_are_those_that_the_networks_can_halve(tiny, bucketed):
    assert side_unit(tiny.base) == 16  # the VAE's 8, and two levels
    assert batch_sizes(bucketed, tiny.base)[0] == WIDE
    square = dataclasses.replace(bucketed, data=DataConfig(resolution=RESOLUTION))
    assert batch_sizes(square, tiny.base) == (SQUARE,)
    assert open_buckets(square, tiny.base) is None
    buckets = open_buckets(bucketed, tiny.base)
    assert {size: len(found) for size, found in buckets.members.items()} == {
        WIDE: 5,
        SQUARE: 6,
        TALL: 4,
    }


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_hosts_read_a_part_each_and_get_all(count, monkeypatch):
    """Each host in turn, with what all of them give to be gathered."""
    parts = {}
    for gathering in (True, False):
        for host in range(count):
            monkeypatch.setattr(jax, "process_count", lambda: count)
            monkeypatch.setattr(jax, "process_index", lambda host=host: host)

            def allgather(array, host=host):
                if array.ndim == 0:
                    return np.array([array] * count)
                parts.setdefault(host, array)
                return np.stack([parts.get(each, array) for each in range(count)])

            module = "moa_jax.training.hosts.multihost_utils.process_allgather"
            monkeypatch.setattr(module, allgather)
            read = []

            def rows(part, read=read):
                read += part
                return np.array([[n, 10 * n] for n in part], np.int32).reshape(-1, 2)

            found = divided(5, rows)
            assert len(read) <= -(-5 // count)
            if not gathering:
                np.testing.assert_array_equal(found, [[n, 10 * n] for n in range(5)])


def test_hosts_that_count_differently_say_so(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    module = "moa_jax.training.hosts.multihost_utils.process_allgather"
    monkeypatch.setattr(module, lambda array: np.array([5, 6]))
    with pytest.raises(InputError, match="host 0 finds 5, host 1 finds 6; give all the same"):
        divided(5, lambda part: np.zeros((len(part), 2), np.int32))


def encode_shapes(tiny, config, folder):
    data = dataclasses.replace(config.data, encoded=str(folder))
    config = dataclasses.replace(config, data=data)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    buckets = open_buckets(config, tiny.base)
    ensure_encoded(
        config, tiny.model, tiny.params, tiny.identity, tiny.base.tokenizer, mesh, buckets
    )
    return config


def test_encoded_pictures_have_the_shapes_of_their_buckets(tiny, bucketed, shapes, tmp_path):
    bucketed = encode_shapes(tiny, bucketed, tmp_path / "encoded")
    records = EncodedRecords(tmp_path / "encoded")
    assert records.sizes == [WIDE] * 5 + [SQUARE] * 6 + [TALL] * 4
    exactly = jax.jit(partial(encode, tiny.model))
    for number in (0, 4, 10, 14):
        record, size = records[number], records.sizes[number]
        width, height = size
        image, _ = crop_target(load_image(shapes / f"{number}.png"), [], size, False)
        exact = np.concatenate(exactly(tiny.params, jnp.array(image)[None]), -1)[0]
        assert record.latents.shape == exact.shape == (height // 8, width // 8, 8)
        np.testing.assert_allclose(record.latents, exact, rtol=2e-3, atol=2e-3)
        expected = np.zeros((height, width), bool)
        expected[:, : width // 2] = True
        np.testing.assert_array_equal(record.subjects[0].mask, expected)
        assert record.caption == f"a man {number}"


def test_encoded_batches_are_of_one_shape_each_as_planned(tiny, bucketed, tmp_path):
    bucketed = encode_shapes(tiny, bucketed, tmp_path / "encoded")
    sizes = {"max_subjects": 2, "subject_resolution": 32, "batch_size": 4, "seed": 0}
    loader = make_loader(bucketed.data, tiny.base.tokenizer, **sizes)
    batches = [next(loader) for _ in range(15)]
    loader.close()
    train = dataclasses.replace(bucketed.train, batch_size=4)
    planned = [
        {k: (v.shape, v.dtype) for k, v in batch_shapes(each, tiny.base, size).items()}
        for each in [dataclasses.replace(bucketed, train=train)]
        for size in loader.buckets.sizes
    ]
    found = [{k: (v.shape, v.dtype) for k, v in batch.items()} for batch in batches]
    assert [planned[0], *sorted(planned, key=str)] == [found[0], *sorted(planned, key=str)]
    assert all(each in planned for each in found)
    assert [found.count(each) for each in planned] == [5, 6, 4]


def test_squares_and_buckets_do_not_take_each_others_encodings(tiny, bucketed, tmp_path):
    bucketed = encode_shapes(tiny, bucketed, tmp_path / "encoded")
    for change in ({"buckets": False}, {"max_crop": 0.2}):
        other = dataclasses.replace(bucketed, data=dataclasses.replace(bucketed.data, **change))
        with pytest.raises(InputError, match=r"was made with another max_crop 0.1: delete it"):
            encode_shapes(tiny, other, tmp_path / "encoded")


def test_the_devices_memory_holds_one_shape_only(bucketed):
    data = dataclasses.replace(bucketed.data, encoded="somewhere", resident=True)
    with pytest.raises(InputError, match="data.buckets=True gives them several: set one of the"):
        check_kept(dataclasses.replace(bucketed, data=data))


def step_of(traced, mesh):
    """A step that notes the shape it is traced for, compiled for the mesh."""

    def step(state, frozen, batch):
        traced.append(batch["masks"].shape)
        total = jnp.sum(batch["masks"].astype(jnp.float32) @ frozen["w"])
        return jax.tree.map(lambda leaf: leaf + total, state), {"loss": total}

    return jit_step(step, mesh, {"w": jnp.ones(3)}, {"w": jnp.ones((8, 8))})


@pytest.mark.parametrize("devices", [1, 4])
def test_a_bucket_is_compiled_once_ahead_and_never_again(devices, capsys):
    mesh, traced = make_mesh(MeshConfig(), jax.devices()[:devices]), []
    step, weights = step_of(traced, mesh), ({"w": jnp.ones(3)}, {"w": jnp.ones((8, 8))})
    state, frozen = place_weights(weights, mesh)
    sizes = [(4, 2, 6, 8), (4, 2, 4, 8)]
    shapes = [{"masks": jax.ShapeDtypeStruct(size, np.uint8)} for size in sizes]
    shapes = [place_batch_shapes(mesh, each) for each in shapes]
    training.compile_ahead(step, state, frozen, shapes)
    assert traced == sizes
    said = capsys.readouterr().out.splitlines()
    assert [line[:27] for line in said] == [
        "compiled for 8x6 pixels in ",
        "compiled for 8x4 pixels in ",
    ]
    speed = Throughput(0, 4, 1)
    for size in [*sizes, *sizes]:
        batch = place_batch(mesh, {"masks": np.ones(size, np.uint8)})
        speed.count(step, state, frozen, batch)
        state, _ = step(state, frozen, batch)
    assert traced == sizes


def test_the_work_is_the_mean_over_the_steps_of_each_shape():
    def step(state, frozen, batch):
        return batch["masks"] @ batch["masks"].T

    step, speed = jax.jit(step), Throughput(0, 1, 1)
    for rows in (32, 32, 64):  # the step after the reading is under way
        speed.count(step, None, None, {"masks": jnp.ones((rows, 64))})
    numbers = speed.read(2)
    work = numbers["tflops_per_chip"] * 1e12 * numbers["step_seconds"]
    assert work == pytest.approx(2 * 32 * 32 * 64, rel=0.05)
    speed.count(step, None, None, {"masks": jnp.ones((32, 64))})
    numbers = speed.read(4)
    work = numbers["tflops_per_chip"] * 1e12 * numbers["step_seconds"]
    assert work == pytest.approx((2 * 64 * 64 * 64 + 2 * 32 * 32 * 64) / 2, rel=0.05)
