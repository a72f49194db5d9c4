"""The plans on record are those of today's code: two with each change, all by `make nightly`.

`python -m tests.planning.golden` makes them again, where a change of the step is meant.
"""

from pathlib import Path

import pytest

from moa_jax.config import MeshConfig
from moa_jax.planning.plan import CODE
from moa_jax.planning.programs import sampling_programs, shard_bytes, training_program
from moa_jax.planning.topology import topology_devices
from moa_jax.training.chips import GIB
from moa_jax.training.mesh import make_mesh
from tests.planning import golden
from tests.planning.conftest import libtpu
from tests.planning.full_size import write_configurations

pytestmark = libtpu


def check(plan, recorded):
    """Exact in what the project decides, near in what compilers decide."""
    parts, expected = ({**each["memory"]} for each in (plan, recorded))
    temporaries = parts.pop("temporaries"), expected.pop("temporaries")
    assert parts == expected
    same = ("chip", "devices", "images", "limit", "fits", "title")
    assert {key: plan[key] for key in same} == {key: recorded[key] for key in same}
    if plan["made_with"] != recorded["made_with"]:
        pytest.skip(f"the rest was made with {recorded['made_with']}")
    assert temporaries[0] == pytest.approx(temporaries[1], rel=0.05)
    assert plan["flops"] == pytest.approx(recorded["flops"], rel=0.01)
    assert plan["kernel_flops"] == recorded["kernel_flops"]
    assert plan["bytes"] == pytest.approx(recorded["bytes"], rel=0.05)
    sent = {kind: [count, size] for kind, (count, size) in plan["collectives"].items()}
    assert sent == recorded["collectives"]


@pytest.mark.slow
def test_the_toy_worlds_plan_is_the_one_on_record():
    """Split over four chips, in two micro-batches: each weight is gathered for each."""
    check(golden.make("toy"), golden.recorded("toy"))


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.FULL_SIZE)
def test_a_full_size_plan_is_of_todays_weights(name, tmp_path):
    """Without the compiler: what weights, optimizer and batch take of a device."""
    planned, recorded = golden.PLANNED[name], golden.recorded(name)
    config = planned.load(write_configurations(tmp_path))
    mesh = make_mesh(config.mesh, topology_devices(planned.topology))
    parts = training_program(config, mesh).parts
    found = {part: shard_bytes(tree) for part, tree in parts.items()}
    assert found == {k: v for k, v in recorded["memory"].items() if k != "temporaries"}


@pytest.mark.parametrize("name", golden.FULL_SIZE)
def test_a_configuration_says_what_its_plan_says(name):
    plan, says = golden.recorded(name), docstring(golden.PLANNED[name].config)
    rows = plan["images"] / plan["devices"]
    flops = plan["flops"] + plan["kernel_flops"]
    figures = (
        f"{sum(plan['memory'].values()) / GIB:.1f} of {plan['limit'] / GIB:.2f} GiB",
        f"{flops / rows / 1e12:.2f} TFLOP",
        f"{plan['bytes'] / rows / 1e9:.1f} GB",
        f"{rows / plan['seconds']:.0f} pictures/s",
    )
    missing = [figure for figure in figures if figure not in says]
    assert not missing, says
    assert "not measured on hardware" in says


def test_sixteen_pictures_fit_a_v5e_and_eight_move_little():
    """Recomputed blocks make room for the full batch on 8 chips; kept, a picture takes less."""
    recomputed, kept = (golden.recorded(f"sd15_ffhq_v5e_{devices}") for devices in (8, 16))
    assert [recomputed[key] for key in ("fits", "images", "devices")] == [True, 128, 8]
    assert [kept[key] for key in ("fits", "images", "devices")] == [True, 128, 16]
    assert kept["bytes"] / 8 <= 8e9
    for key in ("flops", "bytes"):
        assert kept[key] / 8 < recomputed[key] / 16


def test_drawing_with_stable_diffusion_fits_the_chip_that_colab_gives():
    """Stable Diffusion 1.5 with MoA in bfloat16, four pictures at once, and room for the code."""
    plan = golden.recorded(golden.COLAB)
    assert (plan["chip"], plan["devices"], plan["images"]) == ("v5e", 1, golden.PICTURES)
    assert plan["limit"] == 15.75 * GIB and plan["fits"]
    assert sum(plan["memory"].values()) + CODE <= 15.75 * GIB


@pytest.mark.slow
def test_the_plan_of_drawing_is_of_todays_weights(tmp_path):
    mesh = make_mesh(MeshConfig(), topology_devices("v5e:1x1"))
    encode, step, decode = sampling_programs(golden.drawing(write_configurations(tmp_path)), mesh)
    recorded = golden.recorded(golden.COLAB)["memory"]
    for program in (encode, step, decode):
        assert shard_bytes(program.parts["weights"]) == recorded["weights"]
    # The prior's weights, MoA's and both CLIP towers', each in two bytes but the routers'.
    assert 2.9e9 < recorded["weights"] < 3.1e9


def docstring(config):
    """Give a configuration's docstring on one line."""
    return " ".join(Path(config).read_text().split('"""')[1].split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "sd15_ffhq_v5e_16" else pytest.mark.nightly)
        for name in golden.FULL_SIZE
    ],
)
def test_a_full_size_plan_is_the_one_on_record(name):
    check(golden.make(name), golden.recorded(name))
