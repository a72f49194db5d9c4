"""Rows in batches: the same as all at once, and fewer at once where the memory is out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moa_jax.sampling.batches import in_batches, in_turn

ROWS = {"a": np.arange(7), "b": np.arange(14).reshape(7, 2)}


def run(rows):
    return rows["a"] * 2, {"sum": rows["b"].sum(axis=1)}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, None])
def test_every_row_is_drawn_once_in_order_by_one_shape_of_program(size):
    shapes = set()

    def watched(rows):
        shapes.add(rows["a"].shape)
        return run(rows)

    batches = in_batches(watched, ROWS, size)
    doubled, sums = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    np.testing.assert_array_equal(doubled, 2 * ROWS["a"])
    np.testing.assert_array_equal(sums["sum"], ROWS["b"].sum(axis=1))
    assert len(shapes) == 1


def limited(most, message="RESOURCE_EXHAUSTED: out of memory"):
    def attempt(rows):
        if len(rows["a"]) > most:
            raise jax.errors.JaxRuntimeError(message)
        return run(rows)

    return attempt


def test_memory_that_is_out_halves_the_batch_and_says_so():
    with pytest.warns(UserWarning, match=r"going on with [24] picture\(s\) at once"):
        batches = in_batches(limited(2), ROWS)
    assert [len(doubled) for doubled, _ in batches] == [2, 2, 2, 1]


def test_one_row_that_is_too_large_and_other_errors_are_not_hidden():
    with pytest.raises(jax.errors.JaxRuntimeError), pytest.warns(UserWarning):
        in_batches(limited(0), ROWS)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        in_batches(limited(0, "INTERNAL: something else"), ROWS)


@pytest.mark.parametrize(
    ("count", "most", "group"),
    [(6, 1, 1), (6, 2, 2), (6, 3, 3), (6, 4, 3), (6, 5, 3), (6, 6, 6), (6, 9, 6), (7, 6, 4)]
    + [(7, 3, 3), (67, 64, 34)],
)
def test_rows_come_in_turn_in_equal_groups(count, most, group):
    seen = []

    def function(rows):
        seen.append(rows.shape)
        return rows[:, 0] + 1.0

    rows = jnp.arange(4.0 * count).reshape(count, 4)
    np.testing.assert_array_equal(in_turn(function, rows, most), rows[:, 0] + 1.0)
    assert set(seen) == {(group, 4)}


@pytest.mark.parametrize("own", [3, 4])
def test_every_device_has_its_own_rows_in_turn(own):
    """Rows stay where they are: nothing is sent, and a device sees two of its own at a time."""
    seen = []

    def function(rows):
        seen.append(rows.shape)
        return jnp.sin(rows)

    mesh = Mesh(np.array(jax.devices()[:2]), ("rows",))
    place = NamedSharding(mesh, PartitionSpec("rows"))
    rows = jax.device_put(np.arange(6 * own, dtype=np.float32).reshape(2 * own, 3), place)
    compiled = jax.jit(lambda rows: in_turn(function, rows, 2, shards=2)).lower(rows).compile()
    assert set(seen) == {(4, 3)}
    result = compiled(rows)
    assert result.sharding.is_equivalent_to(place, 2)
    np.testing.assert_allclose(result, np.sin(rows), atol=1e-6)
    text = compiled.as_text()
    assert not any(kind in text for kind in ("all-gather", "all-to-all", "collective-permute"))
