"""A setup as the query of a link, and back.

Pictures of one's own cannot be in a link; the toy world's people are, by their number. A link comes
from anybody: every value is checked, and no sampler but the page's own can be named, because a
sampler's name may stand for code.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from moa_jax.errors import InputError
from moa_jax.page.setup import Setup

OWN = "own"  # stands for a picture that the link does not have
NUMBERS = {"seed": int, "steps": int, "guidance": float, "dial": float}
TEXTS = ("prompt", "negative", "sampler")


def to_query(setup: Setup) -> str:
    """Write a setup as a query, with the question mark."""
    values: dict[str, Any] = {name: getattr(setup, name) for name in (*TEXTS, *NUMBERS)}
    bound = sorted(setup.bindings.items())
    # Counted from 1, as people count.
    values["words"] = ".".join(f"{word + 1}-{subject}" for word, subject in bound)
    values["people"] = ".".join(OWN if each is None else str(each) for each in setup.people)
    return "?" + urlencode({name: value for name, value in values.items() if value != ""})


def from_query(
    query: Mapping[str, str], start: Setup, samplers: Collection[str], people: int
) -> Setup | None:
    """Read a setup from the parameters of a link.

    Args:
        query: unknown names are skipped: whoever shares a link may add some.
        start: the values of what the link does not say.
        samplers: that the page offers.
        people: how many the toy world offers; 0 on another base.

    Returns:
        The setup, whose bindings and people are those of the link alone; None if the link names
        no prompt.

    Raises:
        InputError: a value cannot be read or is out of range.
    """
    if "prompt" not in query:
        return None
    values: dict[str, Any] = {name: query[name] for name in TEXTS if name in query}
    values |= {name: _number(name, query[name]) for name in NUMBERS if name in query}
    if values.get("sampler", start.sampler) not in samplers:
        known = ", ".join(samplers)
        raise InputError(f"the link's sampler={values['sampler'][:40]!r} is none of {known}")
    values["people"] = tuple(_person(each, people) for each in _parts(query.get("people", "")))
    values["bindings"] = dict(_binding(each) for each in _parts(query.get("words", "")))
    try:
        return replace(start, **values)
    except InputError as error:
        raise InputError(f"the link cannot be drawn: {error}") from error


def _parts(text: str) -> list[str]:
    return text.split(".") if text else []


def _number(name: str, text: str) -> int | float:
    # No "nan", "inf", "1_000" or digits of other scripts.
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text):
        raise InputError(f"the link's {name}={text[:40]!r} is no number")
    try:
        return NUMBERS[name](text)
    except ValueError:
        raise InputError(f"the link's {name}={text[:40]!r} is no whole number") from None


def _person(text: str, people: int) -> int | None:
    if text == OWN:
        return None
    if re.fullmatch("[0-9]{1,4}", text) and int(text) < people:
        return int(text)
    there = f"people 0 to {people - 1}" if people else "no people: start it on the toy world"
    raise InputError(f"the link's people={text[:40]!r}: this page has {there}")


def _binding(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]{1,4})-([0-9]{1,2})", text)
    if not found:
        raise InputError(f"the link's words={text[:40]!r}: write WORD-SUBJECT, such as 2-1")
    return int(found[1]) - 1, int(found[2])
