"""The package as users install it: a wheel, in a folder of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKED = ("moa_jax", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")


def install_wheel(folder: Path) -> Path:
    """Build the wheel and install it, without what it needs, below a folder; give PYTHONPATH."""
    site, wheels = folder / "site", folder / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # From a copy: building leaves folders behind, and a stale one would be packed again.
    source = folder / "source"
    source.mkdir(parents=True)
    for name in PACKED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", wheels, source], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    shutil.rmtree(source)
    return site
