"""The plan of a run: bounds, table, errors, and a real one for TPUs that are not here."""

import dataclasses
import importlib.util
import json

import pytest

from moa_jax.commands import sample, train
from moa_jax.errors import InputError
from moa_jax.planning import topology
from moa_jax.planning.collectives import Collective
from moa_jax.planning.hlo import HloArray
from moa_jax.planning.plan import Plan, check_presets, largest_batch
from moa_jax.planning.report import as_json, notes, table
from moa_jax.planning.usage import Usage
from moa_jax.training.chips import CHIPS, GIB
from tests.planning.conftest import libtpu

V5E = CHIPS["TPU v5 lite"]
PARTS = {"frozen": 2 * 2**30, "trained": 2**30, "optimizer": 2 * 2**30, "average": 0}


def usage(temporaries=2.0, fits=True, **values):
    return Usage(PARTS, int(temporaries * GIB), fits, **values)


@pytest.fixture
def plan():
    """Bounded by memory: half a second a step."""
    sent = (Collective("all-gather", (HloArray("bf16", (1000,), (1024,), 0),), ""),) * 2
    moved = int(V5E.memory_bandwidth / 2)
    traffic = {
        "UNet backward": {"norms": moved - moved // 4, "rest": moved // 4 - moved // 400},
        "VAE": {"convolutions": moved // 400},
    }
    fitting = usage(flops=V5E.flops / 4, traffic=traffic, collectives=sent)
    return Plan("fsdp", fitting, devices=8, images=64, runs=7200, chip=V5E, largest=17)


def test_the_speed_is_bounded_by_what_takes_longest(plan):
    assert plan.seconds == pytest.approx(0.5)
    assert plan.hours == pytest.approx(1.0)
    unknown = dataclasses.replace(plan, chip=None)
    assert unknown.seconds is None and unknown.hours is None


def test_the_table_says_what_one_device_holds_and_what_the_run_costs(plan):
    heads, lines = table([plan], remat=False)
    found = dict(lines)
    assert heads == ["a device", "fsdp"]
    assert found["memory: frozen"] == "2.00 GiB"
    assert "memory: average" not in found
    assert found["memory in all"] == "7.00 GiB of 15.75 GiB"
    assert found["pictures"] == "8" and found["pictures that fit, about"] == "17"
    assert found["all-gather"].startswith("2 of ")
    assert found["memory traffic a picture, GB"] == "51.2"
    assert found["of that UNet backward"] == "51.1" and "of that VAE" not in found
    assert found["pictures/s/device at most"] == "16"
    assert found["hours at least"] == "1" and found["device-hours at least"] == "8"
    assert json.loads(json.dumps(as_json(plan)))["collectives"] == {"all-gather": [2, 4000]}
    assert as_json(plan)["traffic"]["VAE"] == {"convolutions": plan.usage.bytes // 400}


def test_what_does_not_fit_is_a_column_with_the_remedy(plan):
    large = dataclasses.replace(plan, usage=usage(56, fits=False), largest=4)
    _, lines = table([plan, large], remat=False)
    found = {name: values for name, *values in lines}
    assert found["fits"][0] == "yes"
    assert "NO" in found["fits"][1] and "model.remat=true" in found["fits"][1]
    assert found["seconds at least"][1] == "-"
    assert "remat" not in dict(table([large], remat=True)[1])["fits"]
    heavy = dataclasses.replace(large, usage=usage(1, fits=False))
    assert "mesh.preset=fsdp" in heavy.remedies(remat=True)


def test_what_just_fits_may_not_for_the_programs_own_code(plan):
    tight = dataclasses.replace(plan, usage=usage(10.5, flops=1e12))
    assert tight.fits
    assert dict(table([tight], remat=False)[1])["fits"].startswith("perhaps: ")
    over = dataclasses.replace(plan, usage=usage(10.8))
    assert not over.fits and over.seconds is None
    assert dict(table([over], remat=False)[1])["fits"].startswith("NO: ")
    assert dataclasses.replace(over, chip=None).fits  # nobody knows


def test_what_the_counts_lack_is_said(plan):
    assert len(notes([plan])) == 1
    lacks = {"kernel_flops": 7.0, "unknown_kernels": 3, "endless": 5}
    for (name, value), word in zip(lacks.items(), ("formula", "3 other", "5 loops"), strict=True):
        lacking = dataclasses.replace(plan.usage, **{name: value})
        assert word in notes([plan, dataclasses.replace(plan, usage=lacking)])[1]


def test_the_largest_batch_is_read_off_two():
    fewer, more = (4, usage(2)), (8, usage(4))  # 5 GiB of weights, half a GiB a picture
    assert largest_batch(15.0 * GIB, fewer, more) == 20
    assert largest_batch(5 * GIB, fewer, more) == 0
    assert largest_batch(15.0 * GIB, (4, usage(2)), (8, usage(2))) is None


def test_presets_are_chosen_by_name():
    assert check_presets("") == [None]
    assert check_presets("dp,fsdp") == ["dp", "fsdp"]
    assert check_presets("all") == ["dp", "fsdp", "fsdp+tp"]
    with pytest.raises(InputError, match="--plan-presets zero: must be of dp, fsdp"):
        check_presets("dp,zero")


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'moa_jax\[tpu\]'"):
        topology.topology_devices("v5e:2x2")


@libtpu
def test_topologies_are_those_that_the_compiler_knows():
    assert len(topology.topology_devices("v5e:1x1")) == 1
    devices = topology.topology_devices("v5e:2x4")
    assert len(devices) == 8
    assert topology.topology_chip(devices[0]) == V5E
    cores = topology.topology_devices("v4:2x2x1")
    assert len(cores) == 8
    assert topology.topology_chip(cores[0]).flops == CHIPS["TPU v4"].flops / 2
    for unknown in ("v5e:3x9", "v99:1x1", "nonsense"):
        with pytest.raises(InputError, match=f"--plan {unknown}: .*e.g. v5e:1x1"):
            topology.topology_devices(unknown)


@libtpu
@pytest.mark.slow
@pytest.mark.nightly  # minutes; test_golden.py plans steps without the command
def test_the_command_plans_the_real_step(tiny_folder, tmp_path, capsys):
    """Split over four chips, each holds about a quarter of the weights, and gathers them."""
    file = tmp_path / "plan.json"
    values = (f"model.base={tiny_folder}", "data.resolution=64", "train.batch_size=8")
    values = (*values, "model.image_encoder=none", "optimizer.accumulation=1")
    command = ["configs/sd15_imagefolder.py", *values]
    options = ["--plan", "v5e:2x2", "--plan-presets", "dp,fsdp", "--plan-json", str(file)]
    assert train.main([*command, *options]) == 0
    whole, split = json.loads(file.read_text())
    assert whole["fits"] and split["fits"]
    for part in ("frozen", "trained", "optimizer"):
        assert split["memory"][part] < 0.5 * whole["memory"][part]
    assert "all-gather" not in whole["collectives"]
    assert split["collectives"]["all-gather"][0] > 10
    assert whole["chip"] == "v5e" and whole["seconds"] > 0
    assert "fits" in capsys.readouterr().out


@libtpu
@pytest.mark.slow
def test_the_command_plans_drawing(tiny_folder, capsys):
    options = ["--num-images", "2", "--steps", "3", "--plan", "v5e:1x1"]
    command = ["--base", str(tiny_folder), "--prompt", "a man", *options]
    assert sample.main(command) == 0
    assert "2 picture(s) on one device of v5e:1x1" in capsys.readouterr().out
