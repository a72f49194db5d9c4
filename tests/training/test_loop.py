"""The loop: what it logs, when it stops, what it tells."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError, NonFiniteLoss
from moa_jax.training.checkpoint import Checkpoints
from moa_jax.training.log import Display, MetricsWriter
from moa_jax.training.loop import check_run, fit, prefetch
from tests.training.tiny import RandomBatches


def with_train(config, **values):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **values))


def poisoned(step, at):
    """A step whose router term is not a number at update `at`, as a fault in one term would be."""

    def run(state, frozen, batch):
        now = int(state.step) + 1
        state, metrics = step(state, frozen, batch)
        if now == at:
            bad = {"loss/router": jnp.nan, "loss/total": jnp.nan}
            metrics = metrics | {name: jnp.asarray(value) for name, value in bad.items()}
        return state, metrics

    run.lower = step.lower
    return run


def test_a_loss_that_is_not_finite_stops_with_step_term_and_last_good_checkpoint(
    tmp_path, adamw, tiny, config, one_device
):
    config = with_train(config, output=str(tmp_path), checkpoint_every=2)
    folder = tmp_path / "checkpoints"
    with (
        Checkpoints(folder, config, tiny.identity) as checkpoints,
        pytest.raises(NonFiniteLoss) as raised,
    ):
        step = poisoned(adamw.step, at=4)
        fit(step, *adamw.start(), RandomBatches(), checkpoints, one_device, config)
    message = str(raised.value)
    assert "step 4: loss/router=nan" in message and "loss/total" not in message
    assert f"{folder / '2'} (step 2)" in message
    assert not (folder / "4").exists()


def test_previews_get_the_averaged_weights_at_their_steps(
    tmp_path, adamw, tiny, config, one_device
):
    config = with_train(config, output=str(tmp_path), steps=4, sample_every=2)
    seen = {}
    with Checkpoints(tmp_path / "checkpoints", config, tiny.identity) as checkpoints:
        state = fit(
            adamw.step,
            *adamw.start(),
            RandomBatches(),
            checkpoints,
            one_device,
            config,
            preview=lambda step, params: seen.update({step: jax.device_get(params)}),
        )
    assert list(seen) == [2, 4]
    assert jax.tree.structure(seen[4]) == jax.tree.structure(jax.device_get(tiny.params))
    prompt = jax.tree.leaves(seen[4]["prompt"])
    for drawn, average in zip(prompt, jax.tree.leaves(state.ema["prompt"]), strict=True):
        np.testing.assert_array_equal(drawn, average)


def test_prefetch_gives_each_batch_with_its_own_place(one_device):
    batches = RandomBatches()
    queue = prefetch(batches, one_device)
    for place in (1, 2, 3):
        batch, state = next(queue)
        assert state == {"place": place}
        expected = RandomBatches()
        expected.set_state({"place": place - 1})
        np.testing.assert_array_equal(batch["image"], next(expected)["image"])
    assert batches.place > 3  # it reads ahead


def test_a_warm_up_as_long_as_the_run_is_refused(config):
    optimizer = dataclasses.replace(config.optimizer, schedule="cosine", warmup_steps=6)
    with pytest.raises(InputError, match="optimizer.warmup_steps=6 .*train.steps=6"):
        check_run(dataclasses.replace(config, optimizer=optimizer))


def test_the_log_drops_what_is_run_again_and_half_a_line(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for step in range(1, 5):
        writer.write(step, {"loss/total": 1.0 / step})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "loss/to')
    writer = MetricsWriter(tmp_path, 2)
    writer.write(3, {"loss/total": float("inf")})
    writer.close()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert entries[2]["loss/total"] is None
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_without_a_terminal_every_log_entry_is_one_line(capsys):
    values = {"loss/total": 0.5, "images_per_second": 8.0, "step_seconds": 90_000.0}
    with Display(steps=3, step=0) as display:
        display.advance(1)
        display.show(1, values)
    (line,) = capsys.readouterr().out.splitlines()
    assert "step 1/3" in line and "loss 0.5000" in line and "8.00 images/s" in line
    assert "2 d 02:00:00 left" in line


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_on_a_terminal_there_is_a_bar_with_the_same_numbers(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    with Display(steps=3, step=0) as display:
        values = {"loss/total": 0.5, "images_per_second": 8.0, "step_seconds": 2.0}
        display.show(1, values)
        display.say("saved")
    assert all(text in stream.getvalue() for text in ("1/3", "loss 0.5000", "saved"))
