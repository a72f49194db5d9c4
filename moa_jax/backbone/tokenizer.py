"""CLIP's tokenizer, as transformers reads it from a checkpoint's `tokenizer/` folder.

Without PyTorch, and without the advice to install it. Captions and networks are elsewhere.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moa_jax.errors import InputError


def load_tokenizer(folder: Path) -> Any:
    """Read a CLIP tokenizer (transformers' CLIPTokenizer).

    Raises:
        InputError: its files are missing or damaged.
    """
    kinds = (("tokenizer.json",), ("vocab.json", "merges.txt"))
    if not any(all((folder / name).is_file() for name in names) for names in kinds):
        raise InputError(
            f"{str(folder)!r} has neither tokenizer.json nor vocab.json and merges.txt"
        )
    with _no_advice():
        from transformers import CLIPTokenizer  # only here: the import takes a second
    try:
        return CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises bare Exception on a damaged file
        raise InputError(f"the tokenizer in {str(folder)!r} does not load: {error}") from error


@contextmanager
def _no_advice() -> Iterator[None]:
    """Keep transformers from advising, at its first import, to install PyTorch."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
