"""A part of the tests under other versions than the ones developed with.

    python -m tests.worlds [--quick] [--if-there] [WORLD ...]

`make worlds` runs all of TESTS in all worlds; `make test-colab` and `make test-newest` run QUICK in
one. The development versions are those of `make test`. Each world is a virtual environment in
`.venv-worlds/`, made once, with its versions pinned and without torch: what needs torch as an
oracle is not run here.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-worlds"
TOOLS = ("beartype>=0.20", "pytest>=8", "pyyaml>=6", "scikit-image>=0.25")  # of the tests
TOOLS += ("pytest-xdist>=3.6", "nbclient>=0.10", "ipykernel>=6.29")
# What a version of jax or flax breaks first: private names, module and transformation rules.
TESTS = (
    "tests/test_architecture.py::test_every_module_imports_without_torch",
    "tests/training/test_chips.py",
    "tests/test_config.py",
    "tests/method/test_losses.py",
    "tests/method/test_mixture.py",
    "tests/method/test_precision.py",
    "tests/method/test_prompt.py",
    "tests/method/test_variant.py",
    "tests/training/test_clusters.py",
    "tests/training/test_optimizer.py",
)
# In at most four minutes on two cores: without what compiles longest.
LONG = ("tests/method/test_prompt.py", "tests/method/test_variant.py")
QUICK = tuple(test for test in TESTS if test not in LONG)


class World(NamedTuple):
    """A version of Python, and the packages that are pinned; the rest is as new as they allow."""

    python: str
    pinned: tuple[str, ...]
    notebooks: tuple[str, ...] = ()  # that are run here, on a small budget


WORLDS = {
    "colab": World(  # the image of Colab's TPU machines
        "3.13",
        (
            "jax==0.7.2",
            "flax==0.11.2",
            "optax==0.2.8",
            "orbax-checkpoint==0.12.4",
            "chex==0.1.90",
        ),
        ("colab",),
    ),
    "newest": World(
        "3.12",
        (
            "jax==0.12.0.1",
            "flax==0.12.12",
            "optax==0.2.8",
            "orbax-checkpoint==0.12.8",
            "chex==0.1.92",
        ),
    ),
}


def main() -> int:
    """Test in the named worlds, or in all; gives 0 if all tests of all worlds pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("worlds", nargs="*", metavar="WORLD", help=f"of {', '.join(WORLDS)}; all")
    parser.add_argument("--quick", action="store_true", help="only the QUICK tests")
    parser.add_argument("--if-there", action="store_true", help="skip a world without its Python")
    options = parser.parse_args()
    tests = QUICK if options.quick else TESTS
    names = options.worlds or WORLDS
    failed = [name for name in names if not passes(name, WORLDS[name], tests, options.if_there)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def passes(name: str, world: World, tests: Sequence[str], if_there: bool) -> bool:
    """Make a world if it is not there, and run the tests in it.

    Args:
        if_there: whether a world passes for which there is no Python here.
    """
    python = find_python(world.python)
    if python is None:
        what = "skipped" if if_there else "failed"
        print(f"{name}: {what}: no Python {world.python} here: install it, e.g. by pyenv")
        return if_there
    print(f"{name}: Python {world.python}, {', '.join(world.pinned)}", flush=True)
    own = install(name, world, python)
    pytest = ["-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--durations=5", *tests]
    commands = [pytest]
    if world.notebooks and tests is TESTS:
        commands.append(["-m", "tests.notebooks", "--small", *world.notebooks])
    # Every command runs, also after one that failed.
    codes = [subprocess.run([own, *each], cwd=ROOT, check=False).returncode for each in commands]
    return not any(codes)


def install(name: str, world: World, python: Path) -> Path:
    """Make a world, unless it is there with the same packages; give its interpreter."""
    own, installed = (FOLDER / name / part for part in ("bin/python", "installed.txt"))
    wanted = "\n".join((*world.pinned, *TOOLS, (ROOT / "requirements.txt").read_text()))
    if not installed.is_file() or installed.read_text() != wanted:
        run(python, "-m", "venv", "--clear", FOLDER / name)
        requirements = ("-r", ROOT / "requirements.txt")
        run(own, "-m", "pip", "install", "--quiet", *world.pinned, *requirements, *TOOLS)
        installed.write_text(wanted)
    return own


def find_python(version: str) -> Path | None:
    """Find an interpreter of this version: pyenv's newest, or the one on the path."""
    found = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    for candidate in [*reversed(found), Path(f"python{version}")]:
        ask = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            told = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            continue
        if told.strip() == version:
            return candidate
    return None


def run(*command: str | Path) -> None:
    """Run a command; stop if it fails."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
