"""Refuse a `config.json` that asks for what a network here does not have.

A configuration file lists every option of diffusers or transformers. Each is either read by the
network, or must hold one of the values that the network implements, or must be switched off.
"""

from collections.abc import Collection, Mapping
from typing import Any

from moa_jax.errors import InputError

# Which kind of Stable Diffusion attends to a context (text) of this width.
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
        read: keys that the network reads, so that any value may stand there.
        fixed: the supported values of keys that change what is computed; absent means supported.
        required: keys without which the network cannot be built.

    Raises:
        InputError: lists every key at fault with its value and what is supported.
    """
    faults = [f"{key} is missing" for key in required if key not in config]
    for key, value in config.items():
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
