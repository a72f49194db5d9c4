"""Checkpoints and the loop: resuming is exact, what must not be mixed is refused."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moa_jax.errors import InputError
from moa_jax.method.weights import Identity
from moa_jax.training.checkpoint import Checkpoints
from moa_jax.training.loop import fit
from moa_jax.training.step import initial_state
from moa_jax.training.throughput import MEASURED
from tests.training.tiny import RandomBatches, leaves


def run_to(folder, steps, adamw, tiny, config, mesh, **train):
    """Train in `folder` up to `steps` of a run that is laid out for six."""
    train = dataclasses.replace(config.train, output=str(folder), steps=steps, **train)
    config = dataclasses.replace(config, train=train)
    with Checkpoints(folder / "checkpoints", config, tiny.identity) as checkpoints:
        return fit(adamw.step, *adamw.start(), RandomBatches(), checkpoints, mesh, config)


def lines(folder):
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: v for key, v in entry.items() if key not in MEASURED} for entry in entries]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, adamw, tiny, config, one_device):
    """A run of six steps without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, jax.device_get(run_to(folder, 6, adamw, tiny, config, one_device))


def test_stopping_and_resuming_changes_no_bit(tmp_path, whole, adamw, tiny, config, one_device):
    run_to(tmp_path, 3, adamw, tiny, config, one_device)
    resumed = jax.device_get(run_to(tmp_path, 6, adamw, tiny, config, one_device))
    reference = whole[1]
    for one, other in zip(leaves(resumed), leaves(reference), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(resumed.step) == 6
    assert lines(tmp_path) == lines(whole[0])


def test_steps_run_again_after_a_crash_are_logged_once(
    tmp_path, capsys, whole, adamw, tiny, config, one_device
):
    class Broken(RandomBatches):
        def __next__(self):
            if self.place == 7:  # asked for when the fifth step is under way
                raise KeyboardInterrupt
            return super().__next__()

    train = dataclasses.replace(config.train, output=str(tmp_path))
    stopped = dataclasses.replace(config, train=train)
    with (
        pytest.raises(KeyboardInterrupt),
        Checkpoints(tmp_path / "checkpoints", stopped, tiny.identity) as checkpoints,
    ):
        fit(adamw.step, *adamw.start(), Broken(), checkpoints, one_device, stopped)
    assert [entry["step"] for entry in lines(tmp_path)][-1] > 3
    run_to(tmp_path, 6, adamw, tiny, config, one_device)
    assert lines(tmp_path) == lines(whole[0])
    assert f"resuming from step 3 of {tmp_path / 'checkpoints'}" in capsys.readouterr().out


def test_only_the_newest_are_kept_and_no_frozen_weight_is_in_them(
    tmp_path, adamw, tiny, config, one_device
):
    run_to(tmp_path, 5, adamw, tiny, config, one_device, checkpoint_every=1, keep_checkpoints=2)
    steps = [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert sorted(path.name for path in steps) == ["4", "5"]
    metadata = json.loads((tmp_path / "checkpoints/5/state/_METADATA").read_text())
    kinds = {path: entry["value_metadata"] for path, entry in metadata["tree_metadata"].items()}
    arrays = " ".join(path for path, kind in kinds.items() if "array" in kind["value_type"].lower())
    assert "personalized" in arrays and "prompt" in arrays
    assert not [name for name in ("text_encoder", "conv_in", "vae") if name in arrays]


def test_later_steps_do_not_write_into_a_state_that_is_being_saved(
    tmp_path, adamw, tiny, config, one_device
):
    run_to(tmp_path, 4, adamw, tiny, config, one_device, checkpoint_every=1, keep_checkpoints=9)
    for later in (2, 3, 4):
        shutil.rmtree(tmp_path / "checkpoints" / str(later))
    with Checkpoints(tmp_path / "checkpoints", config, tiny.identity) as checkpoints:
        state, place, _ = checkpoints.restore(adamw.start()[0])
    expected, _ = adamw.step(*adamw.start(), next(RandomBatches()))
    assert place == {"place": 1}
    for one, other in zip(leaves(state), leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_goes_on_with_the_key_that_it_was_saved_with(tmp_path, config):
    """Older checkpoints hold the seed's own key, from which no run starts any more."""
    state, _ = initial_state({"w": jnp.ones(())}, {"w": True}, optax.sgd(1.0), config)
    old = state.replace(key=jax.random.key_data(jax.random.key(config.train.seed)))
    assert not np.array_equal(old.key, state.key)
    with Checkpoints(tmp_path, config, Identity("small", "small", {})) as checkpoints:
        checkpoints.save(1, old, {"place": 1})
        checkpoints.finish()
        resumed, _, _ = checkpoints.restore(state)
    np.testing.assert_array_equal(resumed.key, old.key)


def test_another_base_is_refused_by_name(tmp_path, adamw, tiny, config, one_device):
    run_to(tmp_path, 1, adamw, tiny, config, one_device)
    fingerprints = tiny.identity.fingerprints | {"vae": "0" * 64}
    other = dataclasses.replace(tiny.identity, base="other/base", fingerprints=fingerprints)
    with (
        Checkpoints(tmp_path / "checkpoints", config, other) as checkpoints,
        pytest.raises(InputError, match="vae of .*other/base.* has another"),
    ):
        checkpoints.restore(adamw.start()[0])


@pytest.mark.parametrize(
    ("section", "change"),
    [("method", {"router": "mlp"}), ("optimizer", {"ema_decay": None})],
)
def test_a_config_that_shapes_the_state_is_refused_by_key(
    tmp_path, whole, adamw, tiny, config, section, change
):
    other = dataclasses.replace(getattr(config, section), **change)
    changed = dataclasses.replace(config, **{section: other})
    (key,) = change
    with (
        Checkpoints(whole[0] / "checkpoints", changed, tiny.identity) as checkpoints,
        pytest.raises(InputError, match=f"{section}.{key}"),
    ):
        checkpoints.restore(adamw.start()[0])


def test_a_harmless_change_is_told(whole, adamw, tiny, config):
    other = dataclasses.replace(config.optimizer, learning_rate=2e-3)
    changed = dataclasses.replace(config, optimizer=other)
    with Checkpoints(whole[0] / "checkpoints", changed, tiny.identity) as checkpoints:
        _, place, changes = checkpoints.restore(adamw.start()[0])
    assert "changed since: optimizer.learning_rate was 0.001, is 0.002" in changes
    assert place == {"place": 6}
