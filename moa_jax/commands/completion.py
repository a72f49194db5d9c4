"""Words that a shell completes at TAB, by argcomplete (`pip install 'moa_jax[completion]'`).

The shell starts the command itself, with the line so far in its environment, and the command prints
how the last word can go on. So this comes before anything that takes long, such as importing jax.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from moa_jax.config import Config, MeshConfig, ModelConfig, flatten, known_configs
from moa_jax.sampling.options import MODES, make_parser
from moa_jax.sampling.record import SAMPLER_LABELS
from moa_jax.section import choices, hints_of

# What completes the values of an option, or of an argument: words, or a function of the word so far
# that gives words. Options without an entry take files, and those that take numbers nothing.
Offers = Mapping[str, Iterable[str] | Callable[[str], Iterable[str]]]
Maker = Callable[[Sequence[str]], argparse.ArgumentParser]


def complete(parser_for: Maker, offers: Offers) -> None:
    """Answer a shell that asks how a word goes on, and end; otherwise do nothing.

    Args:
        parser_for: makes the parser, of the words that stand before the one to complete.
        offers: what completes the values, by the name of the option or argument.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:  # the shell has one of another environment; do not start the real work
        sys.exit(1)
    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words = argcomplete.split_line(line, point)[3][int(os.environ["_ARGCOMPLETE"]) :]

    def offer(*, prefix: str, action: argparse.Action, **_: Any) -> Iterable[str]:
        offered = offers.get(action.dest, () if action.type in (int, float) else files)
        return offered(prefix) if callable(offered) else offered

    argcomplete.autocomplete(
        parser_for(words), always_complete_options="long", default_completer=offer
    )


def files(prefix: str) -> list[str]:
    """List the files and folders whose path begins so; a folder ends in a slash."""
    from argcomplete.completers import FilesCompleter

    return FilesCompleter()(prefix)


def folders(prefix: str) -> list[str]:
    """List the folders whose path begins so."""
    return [path for path in files(prefix) if path.endswith("/")]


def configs(prefix: str) -> list[str]:
    """List the configs that come with the package, and Python files."""
    own = [path for path in files(prefix) if path.endswith((".py", "/"))]
    return [*known_configs(), *own]


def overrides(prefix: str) -> list[str]:
    """List the keys of a configuration; after `key=`, the values that it may have."""
    key, equals, value = prefix.partition("=")
    if not equals:
        return [f"{known}=" for known in flatten(Config())]
    section, _, name = key.partition(".")
    kind = hints_of(Config).get(section)
    hint = hints_of(kind).get(name) if kind else None
    if hint is None:
        return []
    values = choices(hint)
    return [f"{key}={each}" for each in (files(value) if values is None else values)]


def sample_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Make the parser of moa-sample's words; the mode is an argument of it, if it may still come.

    A mode stands first, or not at all.
    """
    mode = words[0] if words and words[0] in MODES else None
    parser = make_parser(mode or "draw")
    if mode or not words:
        parser.add_argument("mode", nargs="?", choices=list(MODES))
    return parser


def _values(section: type, key: str) -> list[str]:
    return [value for value in choices(hints_of(section)[key]) or () if value != "none"]


TRAIN: Offers = {
    "config": configs,
    "overrides": overrides,
    "plan": (),
    "plan_presets": [*_values(MeshConfig, "preset"), "all"],
}
_TEXTS = "prompt negative_prompt source_prompt words moa_strength plugin variant plan"
SAMPLE: Offers = {
    **dict.fromkeys(_TEXTS.split(), ()),
    **dict.fromkeys("base moa controlnet image_encoder out".split(), folders),
    "sampler": [*SAMPLER_LABELS, "checkpoint"],
    "attention": _values(ModelConfig, "attention"),
    "animation": ("gif", "webp", "mp4"),
}
