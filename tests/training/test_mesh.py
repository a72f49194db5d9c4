"""Where arrays live on the mesh, and which sizes are refused."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moa_jax.config import MeshConfig
from moa_jax.errors import InputError
from moa_jax.training.mesh import (
    check_batch,
    gather_weights,
    host_rows,
    jit_step,
    make_mesh,
    place_batch,
    place_weight,
    place_weights,
    weight_shardings,
    weight_spec,
)
from tests.training.tiny import random_batch

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("unet.mid_block.attn1.to_q.kernel", (64, 64), P("fsdp", "tensor")),
        ("unet.mid_block.attn2.personalized.to_v.kernel", (768, 64), P("fsdp", "tensor")),
        ("unet.mid_block.attn1.to_out.0.kernel", (64, 64), P("tensor", "fsdp")),
        ("optimizer.1.mu.unet.attn1.personalized.to_k.kernel", (64, 64), P("fsdp", "tensor")),
        ("unet.mid_block.attn1.router.logits.kernel", (64, 2), P()),
        ("image_encoder.layers.0.self_attn.q_proj.kernel", (32, 32), P("fsdp", "tensor")),
        ("image_encoder.layers.0.self_attn.out_proj.kernel", (32, 32), P("tensor", "fsdp")),
        ("image_encoder.embeddings.class_embedding", (32,), P()),
        ("unet.conv_in.kernel", (3, 3, 4, 320), P(None, None, None, "fsdp")),
        ("text_encoder.token_embedding.embedding", (49408, 768), P("fsdp", None)),
        ("vae.encoder.mid_block.attentions.0.to_q.kernel", (512, 512), P("fsdp", None)),
        ("unet.conv_in.bias", (320,), P()),
        ("step", (), P()),
    ],
)  # fmt: skip
def test_every_kind_of_weight_has_its_place(path, shape, spec):
    assert weight_spec(path, shape, SIZES) == spec


def test_an_axis_that_does_not_divide_is_left_out():
    assert weight_spec("attn1.to_q.kernel", (63, 64), SIZES) == P(None, "tensor")
    assert weight_spec("conv.kernel", (3, 3, 5, 7), SIZES) == P(None, None, None, None)


def test_axes_that_do_not_fit_the_devices_are_refused_with_the_numbers():
    with pytest.raises(InputError, match="mesh.data=3 .*does not fit 8 devices"):
        make_mesh(MeshConfig(data=3))
    with pytest.raises(InputError, match="mesh.fsdp=3.*8 devices"):
        make_mesh(MeshConfig(fsdp=3))


@pytest.mark.parametrize(
    ("axes", "sizes"),
    [
        (MeshConfig(preset="dp"), (8, 1, 1)),
        (MeshConfig(preset="fsdp"), (1, 8, 1)),
        (MeshConfig(preset="fsdp", fsdp=8), (1, 8, 1)),
        (MeshConfig(preset="fsdp+tp"), (1, 4, 2)),
        (MeshConfig(preset="fsdp+tp", tensor=4), (1, 2, 4)),
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 2)),
    ],
)
def test_a_preset_gives_the_devices_to_its_axis(axes, sizes):
    assert tuple(make_mesh(axes).shape.values()) == sizes


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (MeshConfig(preset="dp", fsdp=2), "mesh.fsdp=2 contradicts mesh.preset=dp.* 1 on 8"),
        (MeshConfig(preset="fsdp", tensor=2), "mesh.tensor=2 contradicts mesh.preset=fsdp"),
        (MeshConfig(preset="fsdp+tp", data=2), "mesh.data=2 .*mesh.preset=none"),
        (MeshConfig(preset="fsdp+tp", tensor=3), "mesh.tensor=3 .*does not fit 8 devices"),
    ],
)
def test_axes_that_contradict_the_preset_are_refused(axes, message):
    with pytest.raises(InputError, match=message):
        make_mesh(axes)


@pytest.mark.parametrize(
    ("shape", "places", "rows"),
    [
        ({"fsdp": 8}, [0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"fsdp": 8}, [0, 1, 4, 5], [0, 1, 2, 3, 8, 9, 10, 11]),  # as a v5e host's chips lie
        ({"fsdp": 4, "tensor": 2}, [0, 2, 4, 6], list(range(16))),  # shares all rows
        ({"fsdp": 4, "tensor": 2}, [0, 1, 6, 7], [0, 1, 2, 3, 12, 13, 14, 15]),
    ],
)
def test_a_host_reads_the_rows_that_its_devices_hold(monkeypatch, shape, places, rows):
    mesh = make_mesh(MeshConfig(**shape))
    mine = {mesh.devices.flat[place] for place in places}
    everywhere = NamedSharding.devices_indices_map
    monkeypatch.setattr(
        NamedSharding,
        "addressable_devices_indices_map",
        lambda self, size: {d: i for d, i in everywhere(self, size).items() if d in mine},
    )
    assert host_rows(mesh, 16) == rows
    placed, whole = {}, np.arange(16) * 10

    def from_callback(size, sharding, part):
        for device, index in sharding.addressable_devices_indices_map(size).items():
            placed[device] = part(index)
            np.testing.assert_array_equal(placed[device], whole[index])
        return jax.numpy.zeros(size)

    monkeypatch.setattr(jax, "make_array_from_callback", from_callback)
    place_batch(mesh, {"image": whole[rows]})
    assert placed.keys() == mine


def test_data_takes_the_devices_that_the_other_axes_leave():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    check_batch(16, 2, mesh)
    with pytest.raises(InputError, match="batch_size=12 .*accumulation=1 x mesh data=4 x .* = 8"):
        check_batch(12, 1, mesh)
    with pytest.raises(InputError, match="= 16"):
        check_batch(8, 2, mesh)


def test_a_batch_is_split_over_the_data_axes_and_not_over_tensor():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    batch = place_batch(mesh, random_batch(0))
    assert {shard.data.shape[0] for shard in batch["image"].addressable_shards} == {2}
    np.testing.assert_array_equal(batch["masks"], random_batch(0)["masks"])


def test_what_of_a_batch_is_on_devices_stays_where_it_is():
    there = jax.numpy.ones((8, 2))
    batch = place_batch(make_mesh(MeshConfig()), {"x": there, "y": np.ones((8, 2))})
    assert batch["x"] is there and len(batch["y"].sharding.device_set) == 8


def kernels(**shapes):
    return {name: {"kernel": jax.numpy.ones(shape)} for name, shape in shapes.items()}


def test_a_step_gathers_weights_from_fsdp_and_leaves_tensor_split():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    objective = gather_weights(lambda trained, frozen: (trained, frozen), mesh)
    traced = jax.make_jaxpr(objective)(kernels(to_q=(8, 6)), kernels(conv_in=(3, 3, 4, 8)))
    constraints = [equation.params["sharding"].spec for equation in traced.eqns]
    assert constraints == [P(None, "tensor"), P(None, None, None, None)]


def test_a_step_takes_over_its_state_and_keeps_every_place():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    state = place_weights(kernels(to_q=(8, 6)), mesh)
    frozen = place_weights(kernels(conv_in=(3, 3, 4, 8)), mesh)

    def add(state, frozen, batch):
        return jax.tree.map(lambda leaf: leaf + batch["x"].mean(), state), {"loss": frozen}

    step = jit_step(add, mesh, state, frozen)
    after, numbers = step(state, frozen, place_batch(mesh, {"x": np.ones((8, 2), np.float32)}))
    assert state["to_q"]["kernel"].is_deleted()
    assert frozen["conv_in"]["kernel"].sharding.spec == P(None, None, None, "fsdp")
    assert after["to_q"]["kernel"].sharding.spec == P("fsdp", "tensor")
    assert numbers["loss"]["conv_in"]["kernel"].is_fully_replicated


def test_streamed_weights_land_where_the_step_wants_them(tiny):
    """So that nothing has to move, and no device ever holds a whole weight that is split."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    wanted = weight_shardings(tiny.params["unet"], mesh)
    arrays, _ = jax.tree_util.tree_flatten_with_path(tiny.params["unet"])
    split = 0
    for (path, array), sharding in zip(arrays, jax.tree.leaves(wanted), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        placed = place_weight(mesh, np.float32, f"unet.{name}", np.asarray(array))
        assert placed.sharding.is_equivalent_to(sharding, array.ndim), name
        split += not placed.is_fully_replicated
    assert split > 50
