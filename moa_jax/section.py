"""A section of a config: each of its values has a type and a range, and any other is refused.

The annotation of a field gives both: `steps: Count = 150_000`. No key of any section is named here.
"""

import math
import types
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from moa_jax.errors import InputError


class Range(NamedTuple):
    """The finite numbers, or the texts, that a value may be.

    Attributes:
        text: describes them to people, after "must be".
        holds: tells whether a value is one of them.
    """

    text: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Range("at least 1", lambda number: number >= 1)]
Whole = Annotated[int, Range("at least 0", lambda number: number >= 0)]
Seed = Annotated[int, Range("from 0 to 2**32 - 1", lambda number: 0 <= number < 2**32)]
Weight = Annotated[float, Range("at least 0", lambda number: number >= 0)]
Positive = Annotated[float, Range("above 0", lambda number: number > 0)]
Probability = Annotated[float, Range("from 0 to 1", lambda number: 0 <= number <= 1)]
Share = Annotated[float, Range("above 0 and up to 1", lambda number: 0 < number <= 1)]
Inside = Annotated[float, Range("above 0 and below 1", lambda number: 0 < number < 1)]
Decay = Annotated[float, Range("at least 0 and below 1", lambda number: 0 <= number < 1)]


class Section:
    """A part of a config. A value of another type or out of its range is refused."""

    def __post_init__(self) -> None:
        """Refuse values of another type, and numbers out of range.

        Raises:
            InputError: a value is refused; the message names the key, the value and what it must
                be.
        """
        for key, hint in hints_of(type(self)).items():
            value = checked(key_of(type(self), key), getattr(self, key), hint)
            object.__setattr__(self, key, value)  # an int that stands for a float becomes one


def parse(hint: Any, text: str, path: str) -> Any:
    """Read `text` as the type `hint`: int, float, bool, str, Literal, or one of these or None.

    Args:
        path: the key, for the message.

    Raises:
        InputError: the text is not the bool or number that it should be.
    """
    kind, optional, _ = _taken_apart(hint)
    if optional and text.lower() == "none":
        return None
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise InputError(f"{path}={text!r}: must be true or false")
    if kind not in (int, float):
        return text
    try:
        return kind(text.replace("_", ""))
    except ValueError as error:
        raise InputError(f"{path}={text!r}: must be of type {kind.__name__}") from error


def checked(path: str, value: Any, hint: Any) -> Any:
    """Return a value as the type `hint`; an int that stands for a float becomes one.

    Args:
        path: the key, for the message.

    Raises:
        InputError: the value has another type, or is out of its range.
    """
    kind, optional, allowed = _taken_apart(hint)
    if value is None and optional:
        return None
    wanted = None
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            wanted = f"one of {', '.join(get_args(kind))}"
    elif not _is_a(value, kind):
        wanted = f"of type {kind.__name__}"
    # Infinity passes a comparison; NaN fails every one.
    elif allowed and (value in (math.inf, -math.inf) or not allowed.holds(value)):
        wanted = allowed.text
    if wanted:
        shown = repr(value) if isinstance(value, str) else value
        raise InputError(f"{path}={shown}: must be {wanted}" + (", or none" if optional else ""))
    return float(value) if kind is float else value


def choices(hint: Any) -> list[str] | None:
    """List the texts that `parse` takes for a type: of a Literal, of a bool, and "none".

    A number has none that could be listed. None means any text.
    """
    kind, optional, _ = _taken_apart(hint)
    none = ["none"] if optional else []
    if get_origin(kind) is Literal:
        return [*map(str, get_args(kind)), *none]
    if kind in (bool, int, float):
        return [*(["true", "false"] if kind is bool else []), *none]
    return None


def _is_a(value: Any, kind: type) -> bool:
    """Tell whether a value has a type; an int is a float too, but True is not a number."""
    if isinstance(value, bool):  # to Python, a bool is an int
        return kind is bool
    return isinstance(value, int | float if kind is float else get_origin(kind) or kind)


def key_of(section: type, key: str) -> str:
    """Return the key of a section as an override writes it."""
    return f"{section.__name__.removesuffix('Config').lower()}.{key}"


def _taken_apart(hint: Any) -> tuple[Any, bool, Range | None]:
    """Return the type of a field, whether it may be None, and the range of its numbers."""
    optional = get_origin(hint) in (Union, types.UnionType)
    if optional:
        (hint,) = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Annotated:
        return get_args(hint)[0], optional, get_args(hint)[1]
    return hint, optional, None


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """Read the types and ranges of a dataclass's fields."""
    return get_type_hints(kind, include_extras=True)
