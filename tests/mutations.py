"""Mutation testing: put one fault at a time into a copy of the tree, and see a test fail.

    python -m tests.mutations [--area AREA] [--only TEXT] [--jobs N]

`make mutations` runs all of them. The faults stand in tests/mutants/, one file for each area, as
rows of: the fault in words; the file; the text to replace, which must be there exactly once; the
new text; the tests that should fail, as pytest takes them; and, for a fault that no test can
notice, the reason. A fault that survives without a reason is an error, and so is a row that no
longer fits the source. pytest does not collect this file.
"""

import argparse
import ast
import importlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from tests.compiling import IN_A_HURRY

ROOT = Path(__file__).parents[1]
MUTANTS = Path(__file__).with_name("mutants")
AREAS = tuple(sorted(path.stem for path in MUTANTS.glob("*.py")))
SECONDS = 900  # for the tests of one mutation; and for all of them without a fault:
HOUR = 3600
# A server that has imported what takes long, and forks a process for each mutation.
PROCESSES = multiprocessing.get_context("forkserver")
IMPORTED = (
    "jax flax.linen optax.contrib orbax.checkpoint grain safetensors.numpy transformers torch "
    "diffusers skimage.data skimage.draw"
).split()
# What tests/conftest.py puts into the environment before these imports.
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": str(IN_A_HURRY),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    "JAX_PLATFORMS": "cpu",
    "OMP_NUM_THREADS": "2",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Without the check of types and shapes: it takes most of the time, and what a fault does to values
# is what the tests are to see.
PYTEST = ["-q", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
PYTEST += ["-o", "addopts=--import-mode=importlib"]
# A mutant that fails so was not a fault to find: its row is wrong.
NO_FAULT = re.compile(r"^E +(NameError|SyntaxError|ImportError|ModuleNotFoundError)\b", re.M)
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.M)


class Mutation(NamedTuple):
    """One row of an area."""

    area: str
    fault: str
    file: str
    old: str
    new: str
    tests: str
    equivalent: str = ""

    def __str__(self) -> str:
        return f"{self.area}: {self.fault}"


class Outcome(NamedTuple):
    """How the tests of a mutation ended: "killed", "survived" or "broken"; and what to tell."""

    verdict: str
    detail: str
    seconds: float


def read(areas: Iterable[str], only: str = "") -> list[Mutation]:
    """Read the rows of some areas; `only` is a text that the fault or the file must contain."""
    rows = []
    for area in areas:
        module = importlib.import_module(f"tests.mutants.{area}")
        rows += [Mutation(area, *row) for row in module.MUTATIONS]
    return [row for row in rows if only in row.fault or only in row.file]


def mutated(mutation: Mutation, root: Path) -> str:
    """Give the source with the fault in it.

    Raises:
        ValueError: the row does not fit the source.
    """
    source = (root / mutation.file).read_text(encoding="utf-8")
    found = source.count(mutation.old)
    if found != 1:
        raise ValueError(
            f"{mutation}: its text is {found} times in {mutation.file}: write it anew, as it is "
            "there once"
        )
    changed = source.replace(mutation.old, mutation.new)
    if meaning(changed) == meaning(source):
        raise ValueError(f"{mutation}: it changes nothing in {mutation.file}")
    return changed


@lru_cache(maxsize=8)  # many rows stand in one file
def meaning(source: str) -> str:
    """Give the program without its layout."""
    return ast.dump(ast.parse(source))


def require_tests(mutation: Mutation, root: Path) -> None:
    """Look for the files and the functions of the tests; which parameters they have is not read.

    Raises:
        ValueError: the row names no test, or one that is not there.
    """
    if not mutation.tests.split():
        raise ValueError(f"{mutation}: it names no test: name those that should fail")
    for test in mutation.tests.split():
        file, _, function = test.partition("[")[0].partition("::")
        if not (root / file).is_file():
            raise ValueError(f"{mutation}: there is no file {file}: name the tests where they are")
        if function and function not in functions(root / file):
            raise ValueError(f"{mutation}: {file} has no {function}: name a test that it has")


@lru_cache
def functions(file: Path) -> set[str]:
    """Name the tests at the top level of a file."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return {each.name for each in body if isinstance(each, ast.FunctionDef)}


def stale(mutations: Iterable[Mutation], root: Path) -> list[str]:
    """List what is wrong with the rows."""
    wrong = []
    for mutation in mutations:
        try:
            mutated(mutation, root)
            require_tests(mutation, root)
        except (ValueError, SyntaxError, OSError) as error:
            wrong.append(str(error) if isinstance(error, ValueError) else f"{mutation}: {error}")
    return wrong


def copy_tree(root: Path, folder: Path) -> Path:
    """Copy what git tracks or does not ignore; compiled programs are shared with the original."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True).stdout
    for name in filter(None, names.decode().split("\0")):
        link = (root / name).is_symlink()
        # A link of the tree's own is relative; .venv may be one to elsewhere.
        if not (root / name).readlink().is_absolute() if link else (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name, follow_symlinks=False)
    cache = root / ".jax_cache"
    cache.mkdir(exist_ok=True)
    (folder / cache.name).symlink_to(cache)
    return folder


def run_tests(tree: Path, tests: Iterable[str], *options: str, seconds: float = SECONDS) -> Outcome:
    """Run tests in a process of their own, and say what became of a mutant that they ran on."""
    output = tree.with_name("output")
    arguments = [*PYTEST, *options, *tests]
    began = time.monotonic()
    process = PROCESSES.Process(target=run_pytest, args=(tree, arguments, output))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return Outcome("broken", f"took more than {seconds} s", seconds)
    seconds, said = time.monotonic() - began, output.read_text(encoding="utf-8")
    if process.exitcode == 0:
        return Outcome("survived", "", seconds)
    failed = FAILED.findall(said)
    if process.exitcode != 1 or not failed:
        last = " | ".join(said.strip().splitlines()[-5:])
        return Outcome("broken", f"pytest ended with {process.exitcode}: {last}", seconds)
    if found := NO_FAULT.search(said):
        return Outcome("broken", found[0].strip("E "), seconds)
    return Outcome("killed", " ".join(failed), seconds)


def run_pytest(tree: Path, arguments: list[str], output: Path) -> None:
    """Be that process: it must find nothing but the copy."""
    os.chdir(tree)
    with output.open("w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    os.environ["PYTHONPATH"] = str(tree)  # of what the tests start
    sys.exit(pytest.main(arguments))


def try_mutation(mutation: Mutation, tree: Path) -> Outcome:
    """Put a fault into a tree, run its tests, and put the tree right again."""
    file = tree / mutation.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(mutated(mutation, tree), encoding="utf-8")
    try:
        return run_tests(tree, mutation.tests.split(), "-x")
    finally:
        file.write_text(whole, encoding="utf-8")


def try_all(mutations: Sequence[Mutation], trees: Sequence[Path]) -> list[tuple[Mutation, Outcome]]:
    """Try every mutation, as many side by side as there are trees; print each as it ends."""
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    def try_one(mutation: Mutation) -> tuple[Mutation, Outcome]:
        tree = free.get()
        try:
            outcome = try_mutation(mutation, tree)
        finally:
            free.put(tree)
        equal = " (equivalent)" if mutation.equivalent else ""
        line = f"{outcome.verdict}{equal}  {mutation}  [{outcome.seconds:.0f} s]  {outcome.detail}"
        print(line, flush=True)
        return mutation, outcome

    with ThreadPoolExecutor(len(trees)) as pool:
        return list(pool.map(try_one, mutations))


def faults_of(tried: Iterable[tuple[Mutation, Outcome]]) -> list[str]:
    """List what must not be: survivors without a reason, a reason that is wrong, broken rows."""
    wrong = []
    for mutation, outcome in tried:
        if outcome.verdict == "broken":
            wrong.append(f"broken: {mutation}: {outcome.detail}")
        elif outcome.verdict == "survived" and not mutation.equivalent:
            wrong.append(f"survived: {mutation}: {mutation.tests} did not notice")
        elif outcome.verdict == "killed" and mutation.equivalent:
            wrong.append(f"killed, though listed as equivalent: {mutation}: {outcome.detail}")
    return wrong


def table(tried: Iterable[tuple[Mutation, Outcome]]) -> str:
    """Count by area."""
    counts: dict[str, Counter] = {}
    for mutation, outcome in tried:
        area = counts.setdefault(mutation.area, Counter())
        area.update(["mutations", "equivalent" if mutation.equivalent else outcome.verdict])
    counts["all"] = sum(counts.values(), Counter())
    columns = ("mutations", "killed", "equivalent", "survived", "broken")
    lines = [f"{'area':12}" + "".join(f"{column:>12}" for column in columns)]
    for area, found in counts.items():
        lines.append(f"{area:12}" + "".join(f"{found[column]:12}" for column in columns))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutations that were asked for: 0 if no fault goes unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--area", action="append", choices=AREAS, help="an area; may be repeated")
    parser.add_argument("--only", default="", metavar="TEXT", help="text of the fault or its file")
    parser.add_argument("--jobs", type=int, default=2, help="mutations side by side")
    options = parser.parse_args(arguments)
    os.environ |= SETTINGS
    PROCESSES.set_forkserver_preload(IMPORTED)
    mutations = read(options.area or AREAS, options.only)
    if wrong := stale(mutations, ROOT):
        print("\n".join(wrong))
        return 1
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        jobs = range(max(1, options.jobs))
        trees = [copy_tree(ROOT, Path(folder, str(job), "tree")) for job in jobs]
        tests = list(dict.fromkeys(" ".join(row.tests for row in mutations).split()))
        whole = run_tests(trees[0], tests, seconds=HOUR)
        if whole.verdict != "survived":
            print(f"the tests fail without any fault: {whole.detail}")
            return 1
        print(f"without a fault the tests pass [{whole.seconds:.0f} s]", flush=True)
        tried = try_all(mutations, trees)
    print(table(tried))
    wrong = faults_of(tried)
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
