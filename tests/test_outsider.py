"""As who installed the package: a wheel, a folder elsewhere, and a file of one's own.

Each example is trained, saved, loaded by another process and drawn with; nothing of the repository
is in reach but a copy of the example.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.wheel import install_wheel

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

CONFIG = """
from moa_jax.config import Config, DataConfig, MethodConfig, ModelConfig, TrainConfig
from moa_jax.toyworld import WEIGHTS


def get_config():
    return Config(
        model=ModelConfig(base=str(WEIGHTS / "base")),
        method=MethodConfig(image_encoder_layers=0, max_subjects=2),
        data=DataConfig(path="data", resolution=64, augment=False, workers=0),
        train=TrainConfig(
            steps=2, batch_size=2, log_every=1, sample_every=None, probe="probes:of_step"
        ),
    )
"""
# The same, of the config that comes with the package.
TOY = (
    "toy data.path=data data.encoded=none data.workers=0 optimizer.warmup_steps=0 train.steps=2 "
    "train.batch_size=2 train.log_every=1 train.sample_every=none train.probe=probes:of_step"
).split()
BASE = "moa_jax/toyworld/weights/base"  # found where the package is installed
PROBES = """
def of_step(model, schedule, seed):
    return lambda state, frozen, batch: {"mine/step": state.step * 1.0}
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """(the folder, a function that runs a command in it against the installed wheel)."""
    folder = tmp_path_factory.mktemp("outside")
    site = install_wheel(folder)
    work = folder / "work"
    work.mkdir()
    for example in ("lora_expert", "extra_loss", "router_in_20_lines"):
        shutil.copy(ROOT / "examples" / f"{example}.py", work)
    (work / "tiny.py").write_text(CONFIG)
    (work / "probes.py").write_text(PROBES)
    environment = {**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)  # the eight devices of other tests

    def run(*command):
        program, *arguments = command
        own = site / "bin" / program  # which pip made for an entry point of the package
        done = subprocess.run(
            [own, *arguments] if own.is_file() else [sys.executable, *command],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    where = run("-c", "import moa_jax; print(moa_jax.__file__)")[1].strip()
    assert where == str(site / "moa_jax" / "__init__.py")
    made = run("-m", "moa_jax.toyworld", "data", "--count", "4", "--workers", "1")
    assert made[0] == 0, made[1]
    return work, run


@pytest.mark.parametrize(
    ("override", "plugin"),
    [
        ("method.mixture=lora_expert:Lora(rank=2)", "lora_expert"),
        pytest.param(
            "method.mixture=router_in_20_lines:CentreRouting(reach=0.4)",
            "router_in_20_lines",
            marks=pytest.mark.nightly,
        ),
        ("method.extra_loss=extra_loss:certainty(weight=0.5)", None),
    ],
)
def test_an_example_trains_loads_and_draws(outside, override, plugin):
    work, run = outside
    name = plugin or "extra_loss"
    config = TOY if plugin else ["tiny.py"]
    code, said = run("moa-train", *config, override, f"train.output=runs/{name}")
    assert code == 0, said
    entry = json.loads((work / "runs" / name / "metrics.jsonl").read_text().splitlines()[-1])
    assert entry["mine/step"] == 2.0
    if plugin is None:
        assert 0 < entry["loss/certainty"] < 0.5
    draw = ["moa-sample", "--base", BASE, "--moa", f"runs/{name}", "--steps", "2"]
    draw += ["--prompt", "a man <|image|> in the snow", "--subject", portrait(work)]
    draw += ["--num-images", "1", "--out", f"out/{name}"]
    if plugin:
        code, said = run(*draw)
        assert code == 2 and f"--plugin {plugin}" in said, said
        draw += ["--plugin", plugin]
    code, said = run(*draw)
    assert code == 0, said
    assert (work / "out" / name / "00000-00.png").is_file()


def test_an_unknown_config_is_refused_with_those_that_come_with_the_package(outside):
    code, said = outside[1]("moa-train", "toys")
    assert code == 2 and "(sd15_ffhq, sd15_ffhq_gpu_8, " in said, said


def test_what_is_saved_of_a_lora_expert_is_small(outside):
    work, _ = outside
    weights = load_file(work / "runs" / "lora_expert" / "moa.safetensors")
    experts = {path: leaf for path, leaf in weights.items() if ".personalized." in path}
    assert experts and all(path.endswith((".down.kernel", ".up.kernel")) for path in experts)
    # Of the full copies' 849,536 weights, 3 % by rank 2: counted by hand for the toy U-Net.
    assert sum(leaf.size for leaf in experts.values()) == 25_984


@pytest.mark.nightly  # tests/planning makes plans from the source
def test_a_plan_of_a_variant_is_made_from_the_wheel(outside):
    code, said = outside[1](
        *("moa-train", "tiny.py", "method.mixture=lora_expert:Lora", "--plan", "v5e:1x1")
    )
    assert code == 0, said
    assert "one training step on v5e:1x1" in said


def portrait(work):
    return str(sorted((work / "data").glob("*.png"))[0])
