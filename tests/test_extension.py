"""What a string may name, from a file of one's own: readers, samplers, losses, probes, plug-ins."""

import sys

import numpy as np
import pytest

from moa_jax.config import DataConfig
from moa_jax.data.records import Record, Records, open_records
from moa_jax.diffusion import NoiseSchedule, ddim, make_sampler
from moa_jax.errors import InputError
from moa_jax.extension import find, import_plugin, parse_name, require_imported
from moa_jax.sampling.options import parse_arguments
from moa_jax.sampling.record import write_json

PLUGIN = """
from pathlib import Path

from moa_jax.data.records import Record, Records
from moa_jax.diffusion import ddim


def reader(path, split, subject_label, words=1):
    names = Path(path).read_text().split()
    return Records(names, lambda name: Record(name, None, "a man " * words), Path(path))


def sampler(schedule, num_inference_steps, *, skip=0, eta=0.0):
    return ddim(schedule, num_inference_steps, skip=skip, eta=eta)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module in the working directory, which is on no path."""
    name = f"plugin_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield name
    sys.modules.pop(name, None)


def test_a_name_is_taken_apart_without_importing():
    found = parse_name("no.such.module:Name(a=1, b='x:y', c=(1, None))", "key")
    assert found == ("no.such.module", "Name", {"a": 1, "b": "x:y", "c": (1, None)})


def test_a_function_gets_its_options(plugin):
    assert find(f"{plugin}:reader(words=2)", "key").keywords == {"words": 2}
    with pytest.raises(InputError, match="takes no option 'wrods'; the nearest: words"):
        find(f"{plugin}:reader(wrods=2)", "data.layout")


def test_a_reader_of_ones_own_lists_the_records(plugin, tmp_path):
    listing = tmp_path / "names.txt"
    listing.write_text("one two")
    data = DataConfig(path=str(listing), layout=f"{plugin}:reader(words=2)")
    records = open_records(*data.source())
    assert isinstance(records, Records) and len(records) == 2
    assert records[1] == Record("two", None, "a man a man ")


def test_a_sampler_of_ones_own_plans_the_steps(plugin):
    schedule = NoiseSchedule.from_config(
        {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}
    )
    ours, theirs = make_sampler(f"{plugin}:sampler", schedule, 5), ddim(schedule, 5)
    np.testing.assert_array_equal(ours.timesteps, theirs.timesteps)
    with pytest.raises(InputError, match="does not take karras"):
        make_sampler(f"{plugin}:sampler", schedule, 5, karras=True)
    with pytest.raises(InputError, match="must be one of ddim, .* or your own as package.module"):
        make_sampler("euler_b", schedule, 5)


def test_a_file_names_no_code_that_was_not_imported(plugin, tmp_path):
    with pytest.raises(InputError, match=f"import it first .sample.py: --plugin {plugin}."):
        require_imported(f"{plugin}:Name", "method.mixture")
    import_plugin(plugin)
    require_imported(f"{plugin}:Name", "method.mixture")
    require_imported("moa_jax.method.variant:Variant", "method.mixture")
    with pytest.raises(InputError, match="moa_jax_evil"):
        require_imported("moa_jax_evil:Name", "method.mixture")


def test_a_recorded_sampler_runs_only_if_its_module_is_named(plugin, tmp_path, capsys):
    record = tmp_path / "run.json"
    write_json(record, {"base": "m", "prompt": "p", "sampler": f"{plugin}:sampler"})
    with pytest.raises(SystemExit):
        parse_arguments(["--from-json", str(record)])
    assert f"--plugin {plugin}" in capsys.readouterr().err
    assert plugin not in sys.modules
    given = parse_arguments(["--from-json", str(record), "--plugin", plugin])
    assert given.sampler == f"{plugin}:sampler"


def test_plugins_do_not_come_from_a_record(plugin, tmp_path):
    record = tmp_path / "run.json"
    write_json(record, {"base": "m", "prompt": "p", "plugin": [plugin]})
    assert parse_arguments(["--from-json", str(record)]).plugin == []
    assert plugin not in sys.modules


def test_a_layout_that_is_none_is_refused_by_the_config():
    with pytest.raises(
        InputError, match="must be one of auto, imagefolder, ffhq, datasets, packed, or"
    ):
        DataConfig(layout="coco")
