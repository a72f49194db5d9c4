"""Checkpoints and the loop: resuming is exact, what must not be mixed is refused."""

import dataclasses
import json
import shutil
from functools import partial
from typing import Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moa_jax.config import MethodConfig, OptimizerConfig
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.model import build
from moa_jax.method.trained import leaf_paths, learning_mask
from moa_jax.section import _taken_apart
from moa_jax.training.checkpoint import SHAPES_STATE, Checkpoints
from moa_jax.training.loop import fit
from moa_jax.training.optimizer import make_optimizer
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
    """The last step is among them, though it is no multiple of `checkpoint_every`."""
    run_to(tmp_path, 5, adamw, tiny, config, one_device, checkpoint_every=2, keep_checkpoints=2)
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
    [
        ("method", {"router": "mlp"}),
        ("optimizer", {"ema_decay": None}),
        ("optimizer", {"router_start": 2400}),
        ("optimizer", {"muon_learning_rate": 1e-2}),
    ],
)
def test_a_config_that_shapes_the_state_is_refused_by_key(
    tmp_path, whole, adamw, tiny, config, section, change
):
    other = dataclasses.replace(getattr(config, section), **change)
    changed = dataclasses.replace(config, **{section: other})
    [(key, value)] = change.items()
    optimizer = make_optimizer(changed.optimizer, changed.train.steps, tiny.mask)
    like, _ = initial_state(tiny.params, tiny.mask, optimizer, changed)
    was = getattr(getattr(config, section), key)
    refused = f"made with {section}.{key}={was!r}, not {value!r}"
    with (
        Checkpoints(whole[0] / "checkpoints", changed, tiny.identity) as checkpoints,
        pytest.raises(InputError, match=f"{refused}.*: set that back to go on"),
    ):
        checkpoints.restore(like)
    assert {path.name for path in (whole[0] / "checkpoints").iterdir()} == {"3", "6"}


def test_what_of_the_optimizer_shapes_the_state_is_listed(tiny, config):
    """Each value is changed alone, and the state's arrays are looked at."""
    usual, shapes = config.optimizer, state_shapes(tiny.params, tiny.mask, config)
    for key, hint in get_type_hints(OptimizerConfig, include_extras=True).items():
        was = getattr(usual, key)
        shaped = SHAPES_STATE.get(f"optimizer.{key}", lambda value: None)
        for value in others(was, hint):
            changed = dataclasses.replace(usual, **{key: value})
            changed = dataclasses.replace(config, optimizer=changed)
            found = state_shapes(tiny.params, tiny.mask, changed)
            assert (found != shapes) == (shaped(value) != shaped(was)), (key, value)


def test_what_of_the_method_shapes_the_state_is_listed(tiny, config):
    """All other values are changed at once, for the network is traced each time."""
    unlisted = {
        key: others(getattr(config.method, key), hint)[0]
        for key, hint in get_type_hints(MethodConfig, include_extras=True).items()
        if f"method.{key}" not in SHAPES_STATE
    }
    assert len(unlisted) >= 8
    changed = dataclasses.replace(config.method, **unlisted)
    key, dtype = jax.random.key(0), jnp.float32
    params = jax.eval_shape(lambda key: build(tiny.base, changed, dtype=dtype, key=key)[1], key)
    mask, usual = learning_mask(params, changed), state_shapes(tiny.params, tiny.mask, config)
    assert state_shapes(params, mask, config) == usual


def others(value, hint):
    """Give other values of the type, those that switch something off among them."""
    kind, optional, allowed = _taken_apart(hint)
    if get_origin(kind) is Literal:
        return [other for other in get_args(kind) if other != value]
    if kind is bool:
        return [not value]
    if kind is str:
        return ["other.module:Name"]
    if value is None:
        return [0.5]
    found = [value - 1, value + 1] if kind is int else [value / 2]
    return [other for other in found if allowed.holds(other)][:1] + [None] * optional


def state_shapes(params, mask, config):
    """Give the arrays that a run's state has, by their names."""
    optimizer = make_optimizer(config.optimizer, config.train.steps, mask)
    start = partial(initial_state, mask=mask, optimizer=optimizer, config=config)
    state = jax.eval_shape(lambda params: start(params)[0], params)
    return {name: (leaf.shape, leaf.dtype) for name, leaf in leaf_paths(state).items()}


def test_a_state_of_other_arrays_is_named_where_no_value_tells(whole, adamw, tiny, config):
    like = adamw.start()[0]
    other = like.replace(trained={**like.trained, "more": like.step})
    with (
        Checkpoints(whole[0] / "checkpoints", config, tiny.identity) as checkpoints,
        pytest.raises(InputError, match=r"1 are in one .*, trained\.more among them.*version"),
    ):
        checkpoints.restore(other)


def test_other_weights_carried_into_the_image_encoder_are_refused(whole, adamw, tiny, config):
    """As when the folder that model.moa names holds another run's by now."""
    carrying = tiny.identity.carrying({"image_encoder.kernel": np.ones(3)}, "runs/first")
    with (
        Checkpoints(whole[0] / "checkpoints", config, carrying) as checkpoints,
        pytest.raises(InputError, match="image_encoder of .*with that of 'runs/first'.* another"),
    ):
        checkpoints.restore(adamw.start()[0])


def test_a_harmless_change_is_told(whole, adamw, tiny, config):
    other = dataclasses.replace(config.optimizer, learning_rate=2e-3)
    changed = dataclasses.replace(config, optimizer=other)
    with Checkpoints(whole[0] / "checkpoints", changed, tiny.identity) as checkpoints:
        _, place, changes = checkpoints.restore(adamw.start()[0])
    assert "changed since: optimizer.learning_rate was 0.001, is 0.002" in changes
    assert place == {"place": 6}


@pytest.mark.parametrize("buckets", [False, True])
def test_what_an_earlier_version_did_not_know_was_as_its_default_is(
    tmp_path, adamw, tiny, config, buckets
):
    card = {"config": dataclasses.asdict(config), "identity": dataclasses.asdict(tiny.identity)}
    del card["config"]["data"]["buckets"], card["config"]["data"]["max_crop"]
    now = dataclasses.replace(config, data=dataclasses.replace(config.data, buckets=buckets))
    with Checkpoints(tmp_path / "checkpoints", now, tiny.identity) as checkpoints:
        changes = checkpoints._check(3, card, adamw.start()[0])
    assert changes == ["changed since: data.buckets was False, is True"] * buckets
