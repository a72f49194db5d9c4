"""Run the notebooks as their readers do: each in a fresh kernel and in a folder of its own.

    python -m tests.notebooks [--small] [--out FOLDER] [NAME ...]    run, and print each cell's time
    python -m tests.notebooks --strip                                take outputs out of the files

`moa_jax` is installed from a wheel that is built for this. `make notebooks` strips, `make nightly`
runs all of them at the budget that they come with, and `tests/test_notebooks.py` at a small one.
"""

import argparse
import base64
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from tests.compiling import PROGRAMS, xla_flags
from tests.wheel import install_wheel

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
TIMEOUT = 1_800  # seconds that a cell may take
# For each notebook, the values of its form fields that make it cheap.
SMALL: dict[str, dict[str, object]] = {
    "colab": {"STEPS": 2, "PICTURES": 32, "DRAWING_STEPS": 2, "FRAMES": 2},
    "kaggle_sharding": {"STEPS": 6, "STOP_AT": 3},
    "extend": {
        "ROWS": "smooth agreement",
        "STEPS": 2,
        "PICTURES": 32,
        "PEOPLE": 1,
        "CONTEXTS": 1,
        "PAIRS": 3,
        "DRAWING_STEPS": 2,
    },
    "lab": {
        "STEPS": 2,
        "PICTURES": 32,
        "PEOPLE": 1,
        "CONTEXTS": 1,
        "PAIRS": 3,
        "DRAWING_STEPS": 2,
    },
}


def read(name: str) -> NotebookNode:
    """Read a notebook."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def with_values(notebook: NotebookNode, values: Mapping[str, object]) -> NotebookNode:
    """Fill in form fields, as a reader would by hand: lines of the form `NAME = ...  # @param`.

    Raises:
        ValueError: the notebook does not have exactly one field of that name.
    """
    for name, value in values.items():
        found, field = 0, re.compile(rf"^{name} = .*?(?=  # @param)", re.MULTILINE)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source, count = field.subn(f"{name} = {value!r}", cell.source)
                found += count
        if found != 1:
            raise ValueError(f"the notebook has {found} form fields {name!r}, not one")
    return notebook


def environment(site: Path, hurry: bool) -> dict[str, str]:
    """Give the variables of a kernel: those of a user's shell, and what finds the package.

    Args:
        site: where the wheel is installed.
        hurry: compile as the tests do, and keep the programs with theirs.
    """
    # Importing moa_jax has set variables too; in a user's shell they would hint at a TPU.
    ours = ("JAX_", "XLA_", "TPU_", "TF_CPP_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    kept |= {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    kept |= {"XDG_CACHE_HOME": str(site.parent / "cache")}  # as at the first time: nothing compiled
    if hurry:
        kept |= {
            "JAX_COMPILATION_CACHE_DIR": str(PROGRAMS),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "True",
            "XLA_FLAGS": xla_flags(devices=1).split(maxsplit=1)[-1],  # without their number
        }
    return kept


def execute(
    name: str,
    folder: Path,
    variables: Mapping[str, str],
    values: Mapping[str, object] | None = None,
    say: bool = False,
) -> NotebookNode:
    """Run a notebook in a folder, and give it with its outputs.

    Args:
        variables: the environment of the kernel.
        values: see `with_values`.
        say: print how long each cell takes.

    Raises:
        CellExecutionError: a cell failed; the message has its traceback.
    """
    notebook = with_values(read(name), values or {})
    began = time.perf_counter()

    def done(cell: NotebookNode, cell_index: int, **_: object) -> None:
        nonlocal began
        now = time.perf_counter()
        if say:
            first = cell.source.splitlines()[0]
            print(f"{name} {cell_index:3} {now - began:7.1f} s  {first}", flush=True)
        began = now

    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        on_cell_executed=done,
    )
    return client.execute(env=dict(variables))


def pictures(notebook: NotebookNode) -> dict[str, bytes]:
    """Give the PNGs that a notebook shows, by the place of the cell and their place in it."""
    return {
        f"{place:02}-{number}": base64.b64decode(output.data["image/png"])
        for place, cell in enumerate(notebook.cells)
        for number, output in enumerate(cell.get("outputs", ()))
        if "image/png" in output.get("data", {})
    }


def said(notebook: NotebookNode) -> str:
    """Give all the text that a notebook printed or shows."""
    found = []
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        data = output.get("data", {})
        found.append(output.get("text") or data.get("text/markdown") or data.get("text/plain", ""))
    return "\n".join(found)


def strip() -> None:
    """Take outputs and the order of execution out of the notebooks."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
                cell.metadata.pop("execution", None)
        nbformat.write(notebook, path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the number of notebooks that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--small", action="store_true", help="on the budget of the tests")
    parser.add_argument("--out", type=Path, help="folder for executed notebooks and their pictures")
    parser.add_argument("--strip", action="store_true", help="take outputs out, and run nothing")
    options = parser.parse_args(arguments)
    if options.strip:
        strip()
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        variables = environment(install_wheel(Path(scratch)), options.small)
        for name in options.names or SMALL:
            work = Path(scratch) / name
            work.mkdir()
            try:
                done = execute(name, work, variables, SMALL[name] if options.small else {}, True)
            except CellExecutionError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed += 1
                continue
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                nbformat.write(done, options.out / f"{name}.ipynb")
                for place, png in pictures(done).items():
                    (options.out / f"{name}-{place}.png").write_bytes(png)
    return failed


if __name__ == "__main__":
    sys.exit(main())
