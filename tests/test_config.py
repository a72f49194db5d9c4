"""Configs: overrides are typed, wrong ones are refused with the nearest right name."""

import dataclasses
import json
from pathlib import Path

import pytest

from moa_jax.config import Config, flatten, from_dict, load_config, override
from moa_jax.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("train.steps=150_000", "train", "steps", 150_000),
        ("optimizer.learning_rate=1e-4", "optimizer", "learning_rate", 1e-4),
        ("optimizer.ema_decay=0.99", "optimizer", "ema_decay", 0.99),
        ("train.sample_every=none", "train", "sample_every", None),
        ("model.remat=true", "model", "remat", True),
        ("model.dtype=bfloat16", "model", "dtype", "bfloat16"),
        ("model.base=a=b", "model", "base", "a=b"),
        ("data.subject_label=None", "data", "subject_label", None),
        ("mesh.data=4", "mesh", "data", 4),
    ],
)
def test_an_override_takes_the_type_of_its_field_and_changes_nothing_else(
    assignment, section, key, value
):
    changed = override(Config(), [assignment])
    found = getattr(getattr(changed, section), key)
    assert found == value and type(found) is type(value)
    different = {k for k, v in flatten(changed).items() if v != flatten(Config())[k]}
    assert different <= {f"{section}.{key}"}


def test_the_last_override_wins():
    assert override(Config(), ["train.seed=1", "train.seed=2"]).train.seed == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.learning_rat=1", "'optimizer.learning_rat'.*optimizer.learning_rate"),
        ("learning_rate=1", "'learning_rate'.*optimizer.learning_rate"),
        ("train=1", "unknown config key 'train'"),
        ("train.steps.x=1", "unknown config key 'train.steps.x'"),
        ("train.steps", "'train.steps' is not of the form section.key=value"),
        ("train.steps=ten", "train.steps='ten': must be of type int"),
        ("train.steps=1.5", "must be of type int"),
        ("optimizer.ema_decay=often", "must be of type float"),
        ("model.remat=1", "must be true or false"),
        ("method.router=cubic", "must be one of linear, mlp"),
        ("model.attention=flash", "must be one of auto, xla, blocked"),
    ],
)
def test_a_wrong_override_is_refused_with_the_remedy(assignment, message):
    with pytest.raises(InputError, match=message):
        override(Config(), [assignment])


def test_a_config_survives_json():
    config = override(Config(), ["optimizer.ema_decay=0.9", "train.seed=3"])
    assert from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_a_key_of_a_newer_version_is_refused_by_name():
    values = dataclasses.asdict(Config())
    values["train"]["warp"] = 9
    with pytest.raises(InputError, match=r"unknown TrainConfig keys \['warp'\]"):
        from_dict(Config, values)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_what_to_expect(path):
    config = load_config(path)
    assert override(config, [f"{k}={v}" for k, v in flatten(config).items()]) == config
    text = path.read_text()
    for promise in ("Command:", "Hardware:", "Time:", "Result:"):
        assert promise in text, promise


def test_a_config_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(InputError, match="is not a file; here are: .*mine.py"):
        load_config(tmp_path / "yours.py")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "AttributeError"),
        ("def get_config(): return 1", "gave int, not Config"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("def get_config(:", "SyntaxError"),
    ],
)
def test_a_config_that_does_not_run_is_refused_with_the_reason(tmp_path, code, message):
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "broken.py")
