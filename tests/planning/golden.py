"""The plans on record, and how they are made.

python -m tests.planning.golden [NAME ...]    make them again; minutes each at full size
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moa_jax.config import Config, MethodConfig, load_config, override
from moa_jax.planning.plan import plan_sampling, plan_training
from moa_jax.planning.programs import Drawing
from moa_jax.planning.report import as_json
from moa_jax.sampling.settings import Settings
from tests.planning.full_size import write_configurations

FOLDER = Path(__file__).with_name("golden")


@dataclass(frozen=True)
class Planned:
    """One plan on record: of a configuration, for a topology."""

    config: str
    topology: str
    overrides: tuple[str, ...] = ()

    def load(self, base: Path | None) -> Config:
        """Give the configuration, of networks that lie in a folder; None: the toy world's own."""
        at = (f"model.base={base}", "model.image_encoder=none") if base else ()
        return override(load_config(self.config), [*self.overrides, *at])


PLANNED = {
    "toy": Planned("configs/toy.py", "v5e:2x2", ("mesh.preset=fsdp", "optimizer.accumulation=2")),
    "sd15_ffhq_v5e_8": Planned(
        "configs/sd15_ffhq.py", "v5e:2x4", ("mesh.preset=fsdp", "model.remat=true")
    ),
    "sd15_ffhq_v5e_16": Planned("configs/sd15_ffhq_v5e_16.py", "v5e:4x4"),
    "sd15_ffhq_v6e_8": Planned("configs/sd15_ffhq_v6e_8.py", "v6e:2x4"),
}
FULL_SIZE = tuple(name for name in PLANNED if name != "toy")
COLAB = "sd15_moa_v5e_1"  # drawing, on the one chip that Colab gives
PICTURES = 4  # at once, as sample.py draws by default


def recorded(name: str) -> dict[str, Any]:
    """Read a plan."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def compilers() -> dict[str, str]:
    """Say what a plan depends on besides the project."""
    return {name: version(name) for name in ("jax", "libtpu")}


def drawing(base: Path) -> Drawing:
    """Describe what sample.py draws with Stable Diffusion 1.5 and MoA's weights, in bfloat16.

    With Colab's jax, no kernel holds the scores of attention: there, blocks of them are in memory.
    """
    method = MethodConfig()
    return Drawing(str(base), Settings(), method, attention="blocked", num_images=PICTURES)


def make_drawing() -> dict[str, Any]:
    """Make the plan of drawing."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_sampling("v5e:1x1", drawing(write_configurations(Path(folder))))
    return {"made_with": compilers(), **as_json(plan)}


def make(name: str) -> dict[str, Any]:
    """Make a plan with one compilation, or with three if it is of drawing."""
    if name == COLAB:
        return make_drawing()
    planned = PLANNED[name]
    with tempfile.TemporaryDirectory() as folder:
        base = write_configurations(Path(folder)) if name in FULL_SIZE else None
        config = planned.load(base)
        [plan] = plan_training(config, planned.topology, [None], largest=False)
    return {"made_with": compilers(), **as_json(plan)}


if __name__ == "__main__":
    for chosen in sys.argv[1:] or [*PLANNED, COLAB]:
        text = json.dumps(make(chosen), indent=2) + "\n"
        (FOLDER / f"{chosen}.json").write_text(text)
