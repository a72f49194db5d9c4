"""CLIP's tokenizer: read from a checkpoint's `tokenizer/` folder, or written with few words.

transformers does the reading, without PyTorch and without its advice to install PyTorch. A written
tokenizer uses CLIP's byte-level BPE: every listed word is one token, and any other text is split
into bytes and pieces. The ids of the bytes are CLIP's own; the merges are learned from the words.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from moa_jax.backbone.folder import resolve
from moa_jax.backbone.single_file import SingleFile, find_single_file, read_single_file
from moa_jax.backbone.single_file_configs import TOKENIZERS
from moa_jax.errors import InputError

# Articles, prepositions, people, looks, actions, places: enough for captions like "a man reading".
WORDS: tuple[str, ...] = tuple(
    """
    a an the and of in on at by with near under to from is
    man woman kid boy girl person people face dog cat
    red orange yellow green blue purple pink brown black white gray blond
    small big old young happy elderly short curly spiky long
    reading sitting standing waving cheering walking running smiling wearing holding playing
    hair bun beard hat cap beanie coat shirt trousers glasses suit
    book chair balloon umbrella ball
    snow beach forest city street park garden room kitchen mountain
    desert farm castle market playground
    day night sunset rain fog clear
    photo picture painting portrait
    """.split()
)

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"  # CLIP's mark on a token that ends a word
# The letters that stand for the 256 bytes, in the order of CLIP's first ids. Source: GPT-2's BPE,
# which takes Latin-1's printable letters and 68 more for the bytes that have none.
ALPHABET = [
    chr(i)
    for i in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100), *range(0x100, 0x144))
]
MAX_LENGTH = 77  # the text tower's positions in Stable Diffusion 1.x and 2.x

Pair = tuple[str, str]


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


def find_tokenizer(name_or_path: str | Path, tokenizer: str | Path | None = None) -> Path:
    """Find the folder of a checkpoint's tokenizer; nothing else of the checkpoint need be there.

    Args:
        tokenizer: a folder or hub id of another one; None means the checkpoint's own, or for a
            single file, which has none, that of its kind from the hub.

    Raises:
        InputError: there is no such checkpoint or tokenizer.
    """
    if tokenizer is not None:
        return named_tokenizer(tokenizer)
    file = find_single_file(name_or_path)
    if file is None:
        return resolve(name_or_path, ("tokenizer",), weights=False) / "tokenizer"
    return hub_tokenizer(read_single_file(file))


def named_tokenizer(name_or_path: str | Path) -> Path:
    """Find a tokenizer's folder by its own name, or by that of a checkpoint that has one.

    Raises:
        InputError: there is no such folder.
    """
    try:
        folder = resolve(name_or_path, ("", "tokenizer"), weights=False)
    except InputError as error:
        raise InputError(f"tokenizer={str(name_or_path)!r}: {error}") from error
    inner = folder / "tokenizer"
    return inner if inner.is_dir() else folder


def hub_tokenizer(file: SingleFile) -> Path:
    """Find the folder of the tokenizer that a single file was trained with, on the hub.

    Raises:
        InputError: it cannot be had; the message names the option to give another.
    """
    name = TOKENIZERS[file.kind]
    try:
        return resolve(name, ("tokenizer",), weights=False) / "tokenizer"
    except InputError as error:
        raise InputError(
            f"{str(file.path)!r} holds no tokenizer, as no single file does, and the one of its "
            f"kind cannot be had: {error}. Give the `tokenizer` (--tokenizer, model.tokenizer): a "
            f"folder or hub id of a tokenizer, or of a checkpoint of Stable Diffusion {file.kind}"
        ) from error


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


def write_tokenizer(
    folder: Path, words: Sequence[str] = WORDS, max_length: int = MAX_LENGTH
) -> None:
    """Write a tokenizer folder: vocab.json, merges.txt and two configs.

    The same words always give the same bytes.

    Args:
        folder: made if absent; becomes the `tokenizer/` of a diffusers folder.
        words: each becomes one token; lower-case letters a-z only.
        max_length: the most tokens of a caption, its start and end included.

    Raises:
        InputError: a word that CLIP's tokenizer would change or cut before BPE sees it.
    """
    if bad := [word for word in words if not re.fullmatch("[a-z]+", word)]:
        raise InputError(f"words={bad}: a word of the small tokenizer is lower-case letters a-z")
    merges = _learn_merges(words)
    tokens = [*ALPHABET, *(letter + WORD_END for letter in ALPHABET)]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", vocabulary)
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", config)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _learn_merges(words: Sequence[str]) -> list[Pair]:
    """Merge the most frequent pair until each word is one token; encoding replays these merges."""
    pieces = [(*word[:-1], word[-1] + WORD_END) for word in sorted(set(words))]
    merges: list[Pair] = []
    while counts := Counter(pair for word in pieces for pair in pairwise(word)):
        # A tie goes to the pair that sorts first, so the same words give the same file.
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]
    return merges


def _merge(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    merged: list[str] = []
    rest = list(word)
    while rest:
        size = 2 if tuple(rest[:2]) == pair else 1
        merged.append("".join(rest[:size]))
        del rest[:size]
    return tuple(merged)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
