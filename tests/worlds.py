"""The quick part of the tests under other versions than the ones developed with.

`make worlds` runs it; the development versions are those of `make test`. Each world is a virtual
environment in `.venv-worlds/`, made once, with its versions pinned and without torch: what needs
torch as an oracle is not run here.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-worlds"
TOOLS = ("beartype>=0.20", "pytest>=8", "pyyaml>=6", "scikit-image>=0.25")  # of the tests
TOOLS += ("nbclient>=0.10", "ipykernel>=6.29")
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


def main(names: Iterable[str]) -> int:
    """Test in the named worlds, or in all; gives 0 if all tests of all worlds pass."""
    failed = [name for name in names or WORLDS if not passes(name, WORLDS[name])]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def passes(name: str, world: World) -> bool:
    """Make a world if it is not there, and run the tests in it."""
    python = find_python(world.python)
    if python is None:
        print(f"{name}: no Python {world.python} here: install it, e.g. by pyenv", file=sys.stderr)
        return False
    print(f"{name}: Python {world.python}, {', '.join(world.pinned)}", flush=True)
    own = install(name, world, python)
    commands = [["-m", "pytest", "-q", *TESTS]]
    if world.notebooks:
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
    sys.exit(main(sys.argv[1:]))
