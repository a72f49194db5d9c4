"""The rows: what each changes, which are trained again, and how the command refuses."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from moa_jax.config import Config, MethodConfig, flatten, load_config, override
from moa_jax.data.records import open_records
from moa_jax.errors import InputError
from moa_jax.evaluation.toy import rows
from moa_jax.evaluation.toy.command import main
from moa_jax.evaluation.toy.findings import COLUMNS
from moa_jax.evaluation.toy.records import Records
from moa_jax.evaluation.toy.rows import is_trained, make_rows, recipe, row_config, select, train
from moa_jax.evaluation.toy.study import Study
from moa_jax.method.weights import Identity, MoaCard, save_moa

CONFIG = "configs/toy.py"


def test_a_row_changes_one_value_and_keeps_the_budget():
    config = Config()
    for row in make_rows(config)[2:]:
        if row.paired:
            continue
        changed = flatten(override(config, row.overrides)).items() - flatten(config).items()
        (key, _) = next(iter(changed))
        assert len(changed) == 1 and key.startswith("method."), row


def test_the_paired_row_reads_other_data_and_changes_nothing_else(tmp_path, monkeypatch):
    paths = [f"data.path={tmp_path}/data", f"data.encoded={tmp_path}/encoded"]
    config = override(Config(), paths)
    (row,) = (row for row in make_rows(config) if row.paired)
    changed = flatten(override(config, row.overrides)).items() - flatten(config).items()
    assert dict(changed) == {
        "data.path": f"{tmp_path}/data_paired",
        "data.encoded": f"{tmp_path}/encoded_paired",
    }
    monkeypatch.setattr(rows, "DATA_SET", 4)
    commands = []
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(rows.subprocess, "run", lambda *a, **_: commands.append(a[0]) or done)
    plain = select(make_rows(config), ["moa"])[0]
    for each in (plain, row):
        train(each, 0, tmp_path / each.name, CONFIG, paths)
    found = [open_records(f"{tmp_path}/data{end}") for end in ("", "_paired")]
    assert [len(records) for records in found] == [4, 4]
    given = [any(s.references for record in records for s in record.subjects) for records in found]
    assert given == [False, True]
    assert commands[1][-4:-2] == list(row.overrides)


def test_every_record_of_the_repository_holds_for_the_study_as_it_is():
    """Training them again would take a day."""
    config = load_config(CONFIG)
    study = Study(config.model.base, Path("unused"))
    records = Records(Path("docs/evaluation/rows"), study.key, recipe(Config()))
    shown = {column.key for column in COLUMNS} - {"identity/way"}
    assert records.find("prior", {})
    for row in make_rows(config):
        for seed in range(row.seeds):
            found = records.find(f"{row.name}-{seed}", recipe(row_config(row, seed, config)))
            whole = row.name in (rows.MOA, rows.SINGLE)  # of the others, the first is
            assert found or (seed > 0 and not whole), row.name
            assert not found or shown <= found.numbers.keys()


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
