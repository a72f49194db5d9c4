"""Build what a release publishes, and use it as its users would.

    python -m tests.release [--tag v0.1.0]

`make release-check` runs it. The wheel is built from the source distribution, so that both build;
they are compared with git's list of files; and the wheel is installed, with all that it needs, into
a new virtual environment, where its commands run in an empty folder. What passed lies in dist/.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import moa_jax

ROOT = Path(__file__).parents[1]
WEIGHTS = "moa_jax/toyworld/weights"
DRAWING = (
    *("--base", f"{WEIGHTS}/base", "--moa", f"{WEIGHTS}/moa", "--subject", "subject.png"),
    *("--prompt", "a man <|image|> on the beach", "--num-images", "1", "--steps", "4"),
)
SUBJECT = """
from pathlib import Path
from moa_jax.toyworld.world.scenes import write_subject
write_subject(Path("subject.png"))
"""
# Of the source distribution's own tests: quick ones, which read the files around the package.
TESTS = ("test_architecture", "test_citation", "test_config", "test_workflows")


def main() -> int:
    """Check everything; gives 0, or 1 after a line that says what failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tag", help="the tag to release, which must be the version's")
    options = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)  # nothing but what is built and installed is to be found
    with tempfile.TemporaryDirectory() as folder:
        try:
            if options.tag:
                check_tag(options.tag, (ROOT / "CHANGELOG.md").read_text())
            sdist, wheel = build(Path(folder))
            check_files(tracked(), sdist_files(sdist), wheel_files(wheel))
            use_sdist(Path(folder), sdist)
            use_wheel(Path(folder), wheel)
        except (Unfit, subprocess.CalledProcessError) as error:
            print(f"not fit for a release: {error}", file=sys.stderr)
            return 1
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        (ROOT / "dist").mkdir()
        for file in (sdist, wheel):
            shutil.copy(file, ROOT / "dist")
            print(f"dist/{file.name}: {file.stat().st_size / 1e6:.1f} MB")
    return 0


class Unfit(Exception):
    """Something must be changed before a release."""


def check_tag(tag: str, changelog: str) -> None:
    """Compare a tag with the version, and ask for the version's date in the changelog.

    Raises:
        Unfit: they differ, or there is no date.
    """
    version = moa_jax.__version__
    if tag != f"v{version}":
        raise Unfit(f"the tag is {tag!r}, and moa_jax.__version__ is {version!r}")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changelog, re.MULTILINE):
        raise Unfit(f"CHANGELOG.md has no line '## {version} (YEAR-MONTH-DAY)'")


def build(folder: Path) -> tuple[Path, Path]:
    """Build the source distribution, and the wheel from it; give both files."""
    out = folder / "dist"
    run(sys.executable, "-m", "build", "--outdir", out, copy_tracked(folder / "source"))
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    return sdist, wheel


def tracked() -> set[str]:
    """List the files that git tracks; of a link, the files behind it."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    files = {name for name in names if name and not (ROOT / name).is_symlink()}
    links = [name for name in names if name and (ROOT / name).is_symlink()]
    behind = {f"{link}/{path.name}" for link in links for path in (ROOT / link).glob("*.py")}
    return files | behind


def copy_tracked(folder: Path) -> Path:
    """Copy the files that git tracks, so that nothing else that lies here is packed."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def sdist_files(sdist: Path) -> set[str]:
    """List the files of a source distribution, without its top folder."""
    with tarfile.open(sdist) as archive:
        return {each.name.partition("/")[2] for each in archive if each.isfile()}


def wheel_files(wheel: Path) -> set[str]:
    """List the files of a wheel."""
    return set(zipfile.ZipFile(wheel).namelist())


def check_files(git: Iterable[str], sdist: Iterable[str], wheel: Iterable[str]) -> None:
    """Compare what is packed with what git tracks.

    Raises:
        Unfit: a file is missing, or one too many is in the wheel.
    """
    if missing := set(git) - set(sdist):
        raise Unfit(f"the source distribution lacks {sorted(missing)}: see MANIFEST.in")
    package = {name for name in git if name.startswith("moa_jax/")}
    code = {name for name in wheel if ".dist-info/" not in name}
    if package != code:
        raise Unfit(f"the wheel and git differ in {sorted(package ^ code)}: see pyproject.toml")


def use_sdist(folder: Path, sdist: Path) -> None:
    """Collect the tests of an unpacked source distribution, and run some."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (root,) = (folder / "unpacked").iterdir()
    pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    run(*pytest, "--collect-only", "-qq", cwd=root, quiet=True)
    run(*pytest, *(f"tests/{name}.py" for name in TESTS), cwd=root)


def use_wheel(folder: Path, wheel: Path) -> None:
    """Install a wheel into a new virtual environment, and use it in an empty folder.

    Raises:
        Unfit: a command says another version, or draws no picture.
    """
    own, work = folder / "venv/bin", folder / "work"
    work.mkdir()
    run(sys.executable, "-m", "venv", own.parent)
    run(own / "python", "-m", "pip", "install", "--quiet", wheel)
    for command in ("moa-train", "moa-sample"):
        told = subprocess.check_output([own / command, "--version"], cwd=work, text=True).strip()
        if told != f"moa_jax {moa_jax.__version__}":
            raise Unfit(f"{command} --version says {told!r}")
    run(own / "moa-train", "toy", "--print-config", cwd=work, quiet=True)
    run(own / "python", "-c", SUBJECT, cwd=work)
    run(own / "moa-sample", *DRAWING, cwd=work)
    if not (work / "out/00000-00.png").is_file():
        raise Unfit("moa-sample drew no picture")


def run(*command: str | Path, cwd: Path = ROOT, quiet: bool = False) -> None:
    """Run a command; stop if it fails."""
    print("$", *(str(each).strip() for each in command), flush=True)
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL if quiet else None)


if __name__ == "__main__":
    sys.exit(main())
