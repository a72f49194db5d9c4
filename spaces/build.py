"""Put the Space together in a folder, to be uploaded to Hugging Face.

    python spaces/build.py out/space
    hf upload OWNER/NAME out/space . --repo-type space

The folder holds this one's files, the package with the toy world's weights, and one list of
requirements.
"""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
TAKEN = ("app.py", "README.md")


def build(folder: Path) -> None:
    """Write the Space's files into a folder, which must be new or empty."""
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"error: {folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    for name in TAKEN:
        shutil.copy(HERE / name, folder / name)
    lists = (ROOT / "requirements.txt", HERE / "requirements.txt")
    text = "".join(each.read_text(encoding="utf-8") for each in lists)
    (folder / "requirements.txt").write_text(text, encoding="utf-8")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "moa_jax", folder / "moa_jax", ignore=ignored)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python spaces/build.py FOLDER")
    build(Path(sys.argv[1]))
