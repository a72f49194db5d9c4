"""What the short forms of values mean that options of `sample.py` take."""

from moa_jax.errors import InputError
from moa_jax.sampling.control import Control
from moa_jax.sampling.settings import Strength


def read_strength(text: str) -> Strength:
    """Read `[LAYERS=]VALUE[@FROM:TO]`.

    Raises:
        InputError: the text has another form.
    """
    value, _, steps = text.partition("@")
    layers, _, value = value.rpartition("=")
    start, _, end = steps.partition(":")
    try:
        numbers = [float(number) for number in (value, start or 0.0, end or 1.0)]
    except ValueError:
        raise InputError(
            f"--moa-strength {text!r}: write [LAYERS=]VALUE[@FROM:TO], e.g. 0.8, up=1.5 or 0@0:0.3"
        ) from None
    return Strength(numbers[0], layers, *numbers[1:])


def read_lora_option(text: str) -> tuple[str, float, str]:
    """Read `FILE[:WEIGHT[:EXPERTS]]`: the file, its weight, and the experts that it changes."""
    file, experts = text, "both"
    head, _, tail = file.rpartition(":")
    if head and tail.isidentifier():
        file, experts = head, tail
    head, _, tail = file.rpartition(":")
    weight = _number(tail) if head else None
    return (file, 1.0, experts) if weight is None else (head, weight, experts)


def read_control(text: str) -> Control:
    """Read `IMAGE[:SCALE[:FROM:TO]]`.

    Raises:
        InputError: the range has only one end.
    """
    parts = text.split(":")
    numbers: list[float] = []
    while len(parts) > 1 and len(numbers) < 3 and (number := _number(parts[-1])) is not None:
        numbers.insert(0, number)
        parts.pop()
    if len(numbers) == 2:
        raise InputError(f"--control {text!r}: write IMAGE[:SCALE[:FROM:TO]], e.g. edges.png:0.8")
    return Control(":".join(parts), *numbers)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
