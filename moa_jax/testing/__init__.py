"""Does a variant of MoA keep what everybody relies on? `check_variant` tries it.

It builds the variant into a small random Stable Diffusion and runs the functions of CHECKS. A check
that fails raises AssertionError and says what was expected. A variant declares in
`Variant.exceptions` what it gives up by design.
"""

from typing import Any

from moa_jax.method.variant import Variant, name_of
from moa_jax.testing.checks import CHECKS
from moa_jax.testing.tried import Tried, small_stable_diffusion

__all__ = ["CHECKS", "check_variant", "small_stable_diffusion"]


def check_variant(variant: Variant | str, **method: Any) -> dict[str, str]:
    """Try everything that is expected of a variant.

    Args:
        variant: an instance, or a name as in `method.mixture`.
        **method: other values of the config's section `method`.

    Returns:
        For each check, by its name, "passed" or the reason that the variant gives for an exception.

    Raises:
        AssertionError: a check failed; its message begins with the check's name.
    """
    name = variant if isinstance(variant, str) else name_of(variant)
    tried, found = Tried(name, method), {}
    if unknown := tried.variant.exceptions.keys() - CHECKS.keys():
        raise AssertionError(f"exceptions: no check is called {min(unknown)!r}; {[*CHECKS]} are")
    for check, function in CHECKS.items():
        found[check] = tried.variant.exceptions.get(check, "passed")
        if check in tried.variant.exceptions:
            continue
        try:
            function(tried)
        except AssertionError as error:
            raise AssertionError(f"{check}: {error}") from error
    return found
