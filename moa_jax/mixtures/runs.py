"""Read finished runs, which another run begins with."""

from typing import Any, TypeVar

import numpy as np

from moa_jax.errors import InputError
from moa_jax.method.variant import BUILT_IN, Variant, resolve
from moa_jax.method.weights import read_moa_card, read_weights

V = TypeVar("V", bound=Variant)


def read_run(folder: str, kind: type[V], **options: Any) -> tuple[V, dict[str, np.ndarray]]:
    """Read the variant that a finished run trained, and its weights by their path.

    Args:
        kind: the class that the variant must be of; `options` are those that it must have.

    Raises:
        InputError: the run is missing or damaged, or is of another class or other options.
    """
    name = read_moa_card(folder).config.method.mixture
    found = resolve(name)
    fits = type(found) is kind and all(getattr(found, key) == options[key] for key in options)
    if not fits:
        known = {built_in: short for short, built_in in BUILT_IN.items()}
        must = known.get(kind, f"{kind.__module__}:{kind.__name__}")
        must += "".join(f", {key}={value!r}" for key, value in options.items())
        raise InputError(
            f"method.mixture: the run {folder!r} has method.mixture={name!r}; name a run of {must}"
        )
    return found, read_weights(folder)
