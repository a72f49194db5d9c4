"""Checkpoints that are not whole: the one before is used, and the user is told."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moa_jax.errors import InputError
from moa_jax.training.checksum import checksums
from tests.training.small_run import Numbers, open_checkpoints, open_run, small_config, small_fit

STEPS = 10  # with checkpoints at 5 and 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    small_fit(small_config(folder, STEPS))
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def largest(checkpoint):
    return max((checkpoint / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGE = {
    "arrays flipped": lambda at: flip_a_bit(largest(at)),
    "arrays truncated": lambda at: truncate(largest(at)),
    "arrays deleted": lambda at: largest(at).unlink(),
    "manifest truncated": lambda at: truncate(at / "state" / "manifest.ocdbt"),
    "state deleted": lambda at: shutil.rmtree(at / "state"),
    "card not JSON": lambda at: (at / "card" / "metadata").write_text("?"),
    "card changed": lambda at: change(at / "card" / "metadata", '"seed": 0', '"seed": 1'),
    "card deleted": lambda at: (at / "card" / "metadata").unlink(),
    "place changed": lambda at: change(at / "data" / "metadata", "10", "11"),
    "place truncated": lambda at: truncate(at / "data" / "metadata"),
    "empty": empty,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_the_checkpoint_before_is_used_and_the_broken_one_named(damage, whole, copy, capsys):
    damage(copy / "checkpoints" / "10")
    small_fit(small_config(copy, STEPS))
    told = capsys.readouterr().out
    assert f"resuming from step 5 of {copy / 'checkpoints'}" in told
    assert f"checkpoint '{copy / 'checkpoints' / '10'}' is not intact" in told
    assert (copy / "checkpoints" / "10.broken").is_dir()
    for one, other in zip(read(copy), read(whole), strict=True):  # step 10 was saved again
        assert one == other


def read(folder):
    """What the newest checkpoint holds, and what was logged."""
    with open_checkpoints(small_config(folder, STEPS)) as checkpoints:
        state, place, _ = checkpoints.restore(open_run()[1]()[0])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return checksums(state), place, [(row["step"], row["loss/total"]) for row in rows]


def test_a_step_may_break_twice(copy, capsys):
    for _ in range(2):
        empty(copy / "checkpoints" / "10")
        small_fit(small_config(copy, STEPS))
        assert "resuming from step 5 " in capsys.readouterr().out
    assert {path.name for path in (copy / "checkpoints").iterdir()} >= {"10", "10.broken"}


def test_without_a_whole_one_nothing_is_moved_and_nothing_starts_anew(copy):
    checkpoints = copy / "checkpoints"
    empty(checkpoints / "5")
    flip_a_bit(largest(checkpoints / "10"))
    with pytest.raises(InputError) as raised:
        small_fit(small_config(copy, STEPS))
    message = str(raised.value)
    assert str(checkpoints) in message and "5 (" in message and "10 (" in message
    assert "trained.kernel" in message or "optimizer" in message or "ema.kernel" in message
    assert "choose another train.output" in message
    assert "remove" not in message and "delete" not in message
    assert {path.name for path in checkpoints.iterdir()} == {"5", "10"}


def test_a_checkpoint_of_an_earlier_version_has_no_checksums(copy, capsys):
    path = copy / "checkpoints" / "10" / "card" / "metadata"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({key: card[key] for key in ("config", "identity")}))
    small_fit(small_config(copy, STEPS + 1), Numbers())
    assert "resuming from step 10 " in capsys.readouterr().out


def test_checksums_are_the_same_on_every_mesh_and_change_with_any_number():
    values = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    sums = checksums({"one": jax.device_put(values, jax.devices()[0])})
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "fsdp"))
    for spec in (PartitionSpec("data", "fsdp"), PartitionSpec(None, "data"), PartitionSpec()):
        assert checksums({"one": jax.device_put(values, NamedSharding(mesh, spec))}) == sums
    assert checksums({"one": jnp.asarray(values[::-1])}) != sums  # the same numbers elsewhere
    values[7, 3] = np.nextafter(values[7, 3], np.inf)
    assert checksums({"one": jnp.asarray(values)}) != sums
    for kind in (jnp.bool_, jnp.uint8, jnp.bfloat16, jnp.int32):
        ones = jnp.ones(3, kind)
        assert checksums({"one": ones}) != checksums({"one": ones.at[1].set(0)})
