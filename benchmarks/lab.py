"""Write the page of the mixture lab: what each system is, and what it costs at full size.

    python -m benchmarks.lab --out docs            count what is not on record, write the page
    python -m benchmarks.lab --out docs --again    count everything again

Ideas and equations are read from the classes' docstrings. Costs are counted in Stable Diffusion
1.5's U-Net at 512 pixels, with one picture of four subjects, and kept in OUT/mixtures.json. A
program is compiled and not run, in half a minute. OUT/mixtures.md gets a table for each family.
"""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.models import write_configs
from moa_jax.cli import Bar, run
from moa_jax.config import MethodConfig
from moa_jax.evaluation.toy.report import markdown_table
from moa_jax.extension import find
from moa_jax.method.variant import resolve
from moa_jax.mixtures import BESIDE, CATALOGUE, System, Tool

MOA = "moa"  # what the systems are compared with
FIELDS = ("Equation", "Source", "Left out")
BESIDE_HEADS = ("system", "idea", "equation", "file, and the test")
HEADS = ("system", "idea", "equation", "weights, M", "FLOPs", "gives up", "file, and the test")
BEGIN, END = "<!-- begin: python -m benchmarks.lab -->", "<!-- end -->"
# XLA merges what is computed twice all the same, and the machine code need not be good.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SIDE, CHANNELS, WORDS, SUBJECTS = 64, 4, 77, 4  # of the latents; tokens of a prompt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of mixtures.md, e.g. docs")
    parser.add_argument("--again", action="store_true", help="count what is on record again")
    options = parser.parse_args(argv)
    return run(lambda: make(options.out, options.again))


def make(out: Path, again: bool = False) -> None:
    """Count what is missing, and write the page."""
    record = out / "mixtures.json"
    kept = {} if again or not record.is_file() else json.loads(record.read_text())
    names = [MOA, *(system.variant for family in CATALOGUE.values() for system in family)]
    missing = [name for name in names if name not in kept]
    full_size = {each.variant: each.full_size for family in CATALOGUE.values() for each in family}
    with TemporaryDirectory(prefix="moa_jax_lab_") as folder, Bar("counting") as bar:
        base = _base(Path(folder)) if missing else None
        for number, name in enumerate(missing):
            bar.show(number, len(missing))
            kept[name] = count(base, full_size.get(name) or name)
    kept = {name: kept[name] for name in names}  # what has left the catalogue goes
    record.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    page = out / "mixtures.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{tables(kept)}\n{END}{after}", encoding="utf-8")


def _base(folder: Path) -> Any:
    import jax.numpy as jnp

    from moa_jax.backbone.attention_kernels import xla
    from moa_jax.backbone.stable_diffusion import describe_stable_diffusion

    write_configs(folder, "sd15")
    return describe_stable_diffusion(str(folder), jnp.float32, attend=xla)


def count(base: Any, name: str) -> dict[str, float]:
    """Count what a variant adds to the U-Net and what a pass computes, from shapes alone.

    Args:
        base: a Stable Diffusion whose weights are shapes.

    Returns:
        "added": weights that the U-Net has beside the prior's, routers included. "flops": of one
        pass of the compiled program, in which XLA has merged what is computed twice.
    """
    import jax
    import jax.numpy as jnp

    from moa_jax.method.model import build
    from moa_jax.method.trained import count_added

    method = MethodConfig(mixture=name, max_subjects=SUBJECTS)
    model, params = build(base, method, dtype=jnp.float32, key=None)
    shape = jax.ShapeDtypeStruct
    width = params["prompt"]["fusion"]["norm"]["scale"].shape[0]
    features = model.feature_width(params)
    given = (
        shape((1, SIDE, SIDE, CHANNELS), jnp.float32),
        shape((1,), jnp.int32),
        shape((1, WORDS, width), jnp.float32),
        shape((1, SUBJECTS, features), jnp.float32),
        shape((1, SUBJECTS), jnp.int32),
    )
    program = jax.jit(model.denoise).lower(params, *given).compile(compiler_options=FAST)
    flops = program.cost_analysis()["flops"]
    return {"added": count_added(params), "flops": flops}


def tables(counts: dict[str, dict[str, float]]) -> str:
    """Lay out every family as a table.

    Args:
        counts: by the name of the variant, with MoA's.
    """
    parts = [f"MoA itself adds {counts[MOA]['added'] / 1e6:.2f} M weights to the U-Net."]
    for family, systems in CATALOGUE.items():
        lines = [_line(system, counts[system.variant], counts[MOA]) for system in systems]
        said = {each.short: docstring(type(resolve(each.variant))) for each in systems}
        parts += [f"### {family}", markdown_table(HEADS, lines), _notes(said)]
    for family, tools in BESIDE.items():
        if not tools:
            continue
        said = {each.short: docstring(find(each.code, "BESIDE")) for each in tools}
        lines = [
            [_title(tool), own["idea"], own["Equation"], _places(tool.code, tool.test)]
            for tool, own in zip(tools, said.values(), strict=True)
        ]
        parts += [f"### {family}", markdown_table(BESIDE_HEADS, lines), _notes(said)]
    return "\n\n".join(parts)


def _title(each: System | Tool) -> str:
    return f"{each.short}<br>*{each.title}*" if each.title else each.short


def _places(code: str, test: str) -> str:
    return f"`{code}`<br>`{test.rpartition('/')[2]}`"


def _notes(said: dict[str, dict[str, str]]) -> str:
    return "\n".join(
        f"- **{name}**: {each['Source']} Left out: {each['Left out']}"
        for name, each in said.items()
    )


def _line(system: System, own: dict[str, float], moa: dict[str, float]) -> list[str]:
    kind = type(resolve(system.variant))
    said = docstring(kind)
    gives_up = "; ".join(f"`{check}`: {why}" for check, why in kind.exceptions.items())
    places = _places(system.variant, system.test)
    flops = f"{own['flops'] / moa['flops']:.3f}"
    weights = f"{own['added'] / 1e6:.2f}"
    return [_title(system), said["idea"], said["Equation"], weights, flops, gives_up, places]


def docstring(code: Any) -> dict[str, str]:
    """Read the idea of a system and its fields from the docstring of its class or function."""
    text = inspect.getdoc(code) or ""
    found = {"idea": text.partition("\n")[0]}
    for field in FIELDS:
        said = re.search(rf"^{field}: (.*?)(?=\n\n|\n[A-Z][a-z ]+:|\Z)", text, re.S | re.M)
        found[field] = " ".join(said.group(1).split()) if said else ""
    return {name: value.replace("|", "\\|") for name, value in found.items()}


if __name__ == "__main__":
    sys.exit(main())
