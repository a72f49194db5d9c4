"""How the systems of the lab refuse an option that cannot be."""

from typing import Any

from moa_jax.errors import InputError


def require(fits: bool, name: str, value: Any, must: str) -> None:
    """Refuse an option of a variant.

    Args:
        fits: whether the value can be used.
        name: of the option; `value` is what was given.
        must: what the value must be, as in "must be a whole number above 0".

    Raises:
        InputError: the value does not fit.
    """
    if not fits:
        raise InputError(f"method.mixture: {name}={value!r} must be {must}")


def require_count(name: str, value: Any) -> None:
    """Refuse what is not a whole number above 0; for the arguments see `require`."""
    require(isinstance(value, int) and value > 0, name, value, "a whole number above 0")
