"""The files that the documentation's commands name, made of the toy world.

    python examples/toy_files.py [FOLDER]

It writes portraits (`him.jpg`, `her.jpg`, `another.jpg`), a photo with the mask of its person and
their outline (`photo.jpg`, `mask.png`, `edges.png`), a style under two names
(`watercolor.safetensors`, `ink.safetensors`) and a small data set (`my_pictures/`). With files of
your own under these names, the commands are about them.
"""

import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from moa_jax.toyworld import WEIGHTS
from moa_jax.toyworld.pictures import photo
from moa_jax.toyworld.pretraining.addons import outlines
from moa_jax.toyworld.world.people import WORDS
from moa_jax.toyworld.world.scenes import write_data, write_subject

PORTRAITS = {"him.jpg": ("man", 0), "her.jpg": ("woman", 0), "another.jpg": ("woman", 1)}


def main(folder: Path = Path(), pictures: int = 16) -> int:
    """Write all of them."""
    for name, (word, number) in PORTRAITS.items():
        write_subject(folder / name, number * len(WORDS) + WORDS.index(word))
    picture, mask = photo(11)  # somebody who is in no training data
    picture.save(folder / "photo.jpg", quality=95)
    mask.save(folder / "mask.png")
    edges = outlines(jnp.asarray(mask)[None] > 0)
    Image.fromarray(np.asarray(edges)).save(folder / "edges.png")
    for style in ("watercolor", "ink"):
        shutil.copy(WEIGHTS / "style.safetensors", folder / f"{style}.safetensors")
    write_data(folder / "my_pictures", pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
