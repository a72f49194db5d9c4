"""Refuse a `config.json` that asks for something that a network here does not have.

A configuration file lists every option of diffusers or transformers. Either the network reads an
option, or it must hold one of the values that the network implements, or it must be switched off.
"""

from collections.abc import Collection, Mapping
from typing import Any

from moa_jax.errors import InputError

# The kind of Stable Diffusion that attends to a context (text) of this width.
STABLE_DIFFUSION_OF_WIDTH = {768: "1.x", 1024: "2.x", 2048: "XL"}


def require_supported(
    network: str,
    config: Mapping[str, Any],
    read: Collection[str],
    fixed: Mapping[str, Collection[Any]],
    required: Collection[str] = (),
) -> None:
    """Check every key of a configuration.

    Args:
        network: its name in the message.
        read: keys that the network reads; they may have any value.
        fixed: the supported values of keys that change what is computed; they may be absent.
        required: keys without which the network cannot be built.

    Raises:
        InputError: a key is at fault; the message lists each with its value and what is supported.
    """
    faults = [f"{key} is missing" for key in required if key not in config]
    for key, value in config.items():
        # diffusers marks its own notes, such as _class_name, by an underscore.
        if key.startswith("_") or key in read:
            continue
        if key in fixed:
            if value not in fixed[key]:
                choices = " or ".join(repr(choice) for choice in fixed[key])
                faults.append(f"{key}={value!r} (supported: {choices})")
        elif value not in (None, False):
            faults.append(f"{key}={value!r} (an option not known here; supported: None or False)")
    if faults:
        raise InputError(f"{network} config not supported: " + "; ".join(faults))
