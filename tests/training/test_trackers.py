"""What Weights & Biases (a stand-in) and trackio (the real one) get to know of a run."""

import json
import socket
import sys
from types import SimpleNamespace

import pytest

from moa_jax.errors import InputError
from moa_jax.training.log import MetricsWriter
from moa_jax.training.loop import check_run
from moa_jax.training.trackers import open_trackers
from tests.training.small_run import small_config, small_fit


class FakeRun:
    def __init__(self, **arguments):
        self.arguments, self.logged, self.finished = arguments, {}, False

    def log(self, values, step):
        self.logged[step] = values

    def finish(self):
        self.finished = True


def test_weights_and_biases_gets_the_same_numbers_and_resumes_the_same_run(tmp_path, monkeypatch):
    runs = []

    def init(**arguments):
        runs.append(FakeRun(**arguments))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    small_fit(small_config(tmp_path, 3, wandb="faces"))
    small_fit(small_config(tmp_path, 4, wandb="faces"))
    first, second = runs
    assert first.arguments["project"] == "faces" and first.arguments["config"]["train.seed"] == 0
    assert first.arguments["id"] == second.arguments["id"]
    assert list(first.logged) == [1, 2, 3] and list(second.logged) == [4]
    assert first.logged[2]["loss/total"] > 0 and first.finished and second.finished


def test_weights_and_biases_is_asked_for_by_name_when_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises ImportError
    with pytest.raises(InputError, match="train.wandb='faces'.*pip install wandb"):
        check_run(small_config("", 3, wandb="faces"))
    check_run(small_config("", 3))


@pytest.fixture
def trackio(tmp_path, monkeypatch):
    """The library with its data in a folder of the test, and without any way to the network."""

    def refuse(*_):
        raise AssertionError("a connection was made, or a server started")

    for name in ("connect", "connect_ex", "bind", "listen"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    # It reads the variable when it is imported.
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    import trackio.sqlite_storage

    yield trackio
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        del sys.modules[name]


def logged(trackio, project):
    """All that the database holds of a project: the values of each entry, by run."""
    storage = trackio.sqlite_storage.SQLiteStorage
    return {run.name: storage.get_logs(project, run.name) for run in trackio.Api().runs(project)}


def test_trackio_gets_the_numbers_of_the_run_and_goes_on_with_it(tmp_path, trackio):
    small_fit(small_config(tmp_path / "mine", 3, trackio="faces"))
    small_fit(small_config(tmp_path / "mine", 4, trackio="faces"))
    small_fit(small_config(tmp_path / "other" / "mine", 2, trackio="faces"))
    assert [file.name for file in (tmp_path / "trackio").glob("*.db")] == ["faces.db"]
    runs = logged(trackio, "faces")
    assert sorted(map(len, runs.values())) == [2, 4]  # folders of one name are two runs
    name = f"mine-{(tmp_path / 'mine' / 'trackio_id').read_text()}"
    lines = (tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()
    expected = [json.loads(line) for line in lines]
    assert len(expected) == 4 and expected[0]["loss/total"] > 0
    for entry, found in zip(expected, runs[name], strict=True):
        assert {key: found[key] for key in entry if entry[key] is not None} == {
            key: value for key, value in entry.items() if value is not None
        }
        assert found.keys() - entry.keys() <= {"timestamp"}
    config = next(run.config for run in trackio.Api().runs("faces") if run.name == name)
    assert config["train.seed"] == 0 and config["train.trackio"] == "faces"


def test_a_step_that_was_logged_before_a_crash_is_logged_once(tmp_path, trackio):
    config = small_config(tmp_path / "mine", 9, trackio="faces")
    first = MetricsWriter(tmp_path / "mine", 0, open_trackers(config))
    for step in (1, 2, 3):
        first.write(step, {"loss": float(step), "gone": float("nan")})
    first.close()  # as a crash would leave it half a second later
    second = MetricsWriter(tmp_path / "mine", 1, open_trackers(config))  # from the checkpoint at 1
    for step in (2, 3, 4):
        second.write(step, {"loss": float(step)})
    second.close()
    (entries,) = logged(trackio, "faces").values()
    assert [(entry["step"], entry["loss"]) for entry in entries] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_trackio_is_asked_for_by_name_when_it_is_absent_and_may_refuse_a_name(
    tmp_path, trackio, monkeypatch
):
    with pytest.raises(InputError, match="train.trackio='registry-a'.*not allowed"):
        open_trackers(small_config(tmp_path, 3, trackio="registry-a"))
    monkeypatch.setitem(sys.modules, "trackio", None)  # importing it raises ImportError
    with pytest.raises(
        InputError, match=r"train.trackio='faces'.*pip install 'moa_jax\[trackio\]'"
    ):
        check_run(small_config("", 3, trackio="faces"))
