"""Configs: overrides are typed, wrong ones are refused with the nearest right name."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from moa_jax.config import Config, flatten, from_dict, known_configs, load_config, override
from moa_jax.errors import InputError
from moa_jax.method.weights import read_moa_card

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
        ("model.attention=own", "must be one of auto, xla, blocked"),
    ],
)
def test_a_wrong_override_is_refused_with_the_remedy(assignment, message):
    with pytest.raises(InputError, match=message):
        override(Config(), [assignment])


# Of every key that holds a number: what is just inside its range, and just outside.
RANGES = {
    "model.subject_share": ((1e-9, 1.0), (0.0, 1.001)),
    "method.max_subjects": ((1,), (0, -1)),
    "method.initial_personalized_weight": ((1e-9, 0.999), (0.0, 1.0)),
    "method.sigma_t": ((1e-9,), (0.0,)),
    "method.sigma_l": ((1e-9,), (0.0,)),
    "method.fourier_features": ((1,), (0,)),
    "method.image_encoder_layers": ((0,), (-1,)),
    "method.mask_probability": ((0.0, 1.0), (-1e-9, 1.001)),
    "method.router_loss_weight": ((0.0,), (-1e-9,)),
    "method.router_loss_skip": ((0,), (-1,)),
    "method.object_loss_weight": ((0.0,), (-1e-9,)),
    "data.resolution": ((1,), (0,)),
    "data.max_crop": ((0.0, 1.0), (-0.1, 1.1)),
    "data.condition_dropout": ((0.0, 1.0), (-1e-9, 1.001)),
    "data.subject_dropout": ((0.0, 1.0), (-1e-9, 1.001)),
    "data.reference_probability": ((0.0, 1.0), (-1e-9, 1.001)),
    "data.workers": ((0,), (-1,)),
    "data.max_bad_fraction": ((0.0, 1.0), (-1e-9, 1.001)),
    "optimizer.learning_rate": ((0.0,), (-1e-9,)),
    "optimizer.muon_learning_rate": ((0.0, None), (-1e-9,)),
    "optimizer.warmup_steps": ((0,), (-1,)),
    "optimizer.router_start": ((0,), (-1,)),
    "optimizer.weight_decay": ((0.0,), (-1e-9,)),
    "optimizer.max_grad_norm": ((1e-9,), (0.0,)),
    "optimizer.accumulation": ((1,), (0,)),
    "optimizer.ema_decay": ((0.0, 0.9999, None), (-1e-9, 1.0)),
    "train.steps": ((1,), (0,)),
    "train.batch_size": ((1,), (0,)),
    "train.seed": ((0, 2**32 - 1), (-1, 2**32)),
    "train.log_every": ((1,), (0,)),
    "train.sample_every": ((1, None), (0,)),
    "train.sample_steps": ((1,), (0,)),
    "train.checkpoint_every": ((1,), (0, -1)),
    "train.keep_checkpoints": ((1,), (0,)),
    "mesh.data": ((1, None), (0, -1)),
    "mesh.fsdp": ((1, None), (0,)),
    "mesh.tensor": ((1, None), (0,)),
}


def test_every_number_of_the_config_has_a_range():
    numeric = set()
    for section in dataclasses.fields(Config):
        for key, hint in get_type_hints(section.default_factory).items():
            if {int, float} & {hint, *get_args(hint)}:
                numeric.add(f"{section.name}.{key}")
    assert numeric == set(RANGES)


@pytest.mark.parametrize("path", RANGES)
def test_numbers_are_refused_from_just_outside_of_their_range(path):
    inside, outside = RANGES[path]
    for value in inside:
        assert flatten(override(Config(), [f"{path}={value}"]))[path] == value
    unreal = () if isinstance(inside[0], int) else (math.nan, math.inf, -math.inf)
    for value in (*outside, *unreal):
        with pytest.raises(InputError, match=f"^{path}={value}: must be (at least|above|from) "):
            override(Config(), [f"{path}={value}"])


BROKEN = {
    ("method", "router", "cubic"): "method.router='cubic': must be one of linear, mlp, perso",
    ("method", "mask_probability", 2): "method.mask_probability=2: must be from 0 to 1",
    ("train", "steps", "many"): "train.steps='many': must be of type int",
    ("train", "steps", 1.5): "train.steps=1.5: must be of type int",
    ("train", "steps", True): "train.steps=True: must be of type int",
    ("train", "steps", None): "train.steps=None: must be of type int",
    ("mesh", "data", "all"): "mesh.data='all': must be of type int, or none",
    ("model", "remat", 1): "model.remat=1: must be of type bool",
    ("model", "base", 3): "model.base=3: must be of type str",
}


@pytest.mark.parametrize(("section", "key", "value"), BROKEN)
def test_a_card_of_weights_is_held_to_the_same_and_named(tmp_path, section, key, value):
    """The values of a `moa.json` that someone has edited, or that another program wrote."""
    values = dataclasses.asdict(Config())
    values[section][key] = value
    identity = {"base": "base", "image_encoder": "base", "fingerprints": {}}
    card = {"format_version": 1, "config": values, "identity": identity, "step": 1}
    (tmp_path / "moa.json").write_text(json.dumps(card))
    message = re.escape(BROKEN[section, key, value])
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path))}/moa.json'.*{message}"):
        read_moa_card(tmp_path)


def test_a_config_file_is_held_to_the_same_and_named(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from moa_jax.config import Config, TrainConfig\n\n\n"
        "def get_config():\n    return Config(train=TrainConfig(steps=0))\n"
    )
    with pytest.raises(InputError, match=r"mine.py': train.steps=0: must be at least 1$"):
        load_config(tmp_path / "mine.py")


def test_a_whole_number_will_do_for_a_fraction():
    values = {"optimizer": {"learning_rate": 1}}
    assert from_dict(Config, values).optimizer.learning_rate == 1


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


def test_a_config_of_the_package_goes_by_its_name_and_a_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert known_configs() == [path.stem for path in CONFIGS]
    for path in CONFIGS:
        assert load_config(path.stem) == load_config(path)
    Path("toy").symlink_to(CONFIGS[0])
    with pytest.raises(InputError, match="'toy' is not a Python file"):
        load_config("toy")
    with pytest.raises(InputError, match=r"comes with moa_jax \(sd15_ffhq, .*, toy\)"):
        load_config("toys")


def test_a_config_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(InputError, match="is neither a file nor .*toy.*; in .* are .*mine.py"):
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
