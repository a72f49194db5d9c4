"""The rows: what each changes, which are trained again, and how the command refuses."""

import dataclasses

import pytest

from moa_jax.config import Config, MethodConfig, flatten, override
from moa_jax.errors import InputError
from moa_jax.evaluation.toy import rows
from moa_jax.evaluation.toy.command import main
from moa_jax.evaluation.toy.rows import is_trained, make_rows, select, train
from moa_jax.method.weights import Identity, MoaCard, save_moa


def test_a_row_changes_one_value_and_keeps_the_budget():
    config = Config()
    for row in make_rows(config)[2:]:
        changed = flatten(override(config, row.overrides)).items() - flatten(config).items()
        (key, _) = next(iter(changed))
        assert len(changed) == 1 and key.startswith("method."), row


def test_the_default_of_lambda_r_is_moas_own_row():
    for value in (1e-4, 1e-2):
        config = Config(method=MethodConfig(router_loss_weight=value))
        names = [row.name for row in make_rows(config)]
        assert f"router-loss-{value:.0e}".replace("e-0", "e-") not in names
        assert sum(name.startswith("router-loss-") for name in names) == 3


def test_rows_are_chosen_in_the_tables_order_and_unknown_ones_named():
    table = make_rows(Config())
    assert [row.name for row in select(table, ["moa", "prior"])] == ["prior", "moa"]
    assert select(table, []) == table
    with pytest.raises(InputError, match="--rows mao: the rows are prior, moa, "):
        select(table, ["mao"])


@pytest.fixture
def run(tmp_path):
    """A finished run of three steps, and its configuration."""
    config = override(Config(), ["train.steps=3", f"train.output={tmp_path}"])
    save_moa(tmp_path, {}, MoaCard(config, Identity("base", "base", {}), 3))
    return tmp_path, config


def test_a_whole_run_is_not_trained_again(run, monkeypatch):
    folder, config = run
    monkeypatch.setattr(rows.subprocess, "run", lambda *_, **__: pytest.fail("trained"))
    assert is_trained(folder, config)
    path = folder / "config.py"
    path.write_text("from moa_jax.config import Config\n\ndef get_config():\n    return Config()\n")
    train(make_rows(config)[1], 0, folder, str(path), ["train.steps=3"])


def test_a_run_cut_short_is_not_whole(run):
    folder, config = run
    assert not is_trained(folder, override(config, ["train.steps=4"]))
    assert not is_trained(folder / "elsewhere", config)


def test_a_run_of_other_values_is_refused(run):
    folder, config = run
    other = dataclasses.replace(config, method=MethodConfig(object_loss_weight=0.0))
    with pytest.raises(InputError, match=r"method.object_loss_weight=0.001 instead of 0.0.*--runs"):
        is_trained(folder, other)


def test_the_command_names_what_is_missing(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "no.py"), "--runs", str(tmp_path)]) == 2
    assert "no.py' is neither a file nor" in capsys.readouterr().err
