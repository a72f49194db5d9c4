"""Mixture-of-Attention (MoA, arXiv 2404.11565) for Stable Diffusion, in JAX and Flax.

`Pipeline` draws pictures; training is `train.py`. The folders are the theory: `method` is the
paper, `backbone` is Stable Diffusion, `diffusion` the noise schedule and the samplers.
"""

from typing import Any

from moa_jax.runtime import quiet

__version__ = "0.1.0"
__all__ = ["InputError", "Pipeline", "Result", "__version__"]

quiet()  # here, for it must come before jax


def __getattr__(name: str) -> Any:
    """Import on first use: `import moa_jax.data` must not load jax."""
    if name in ("Pipeline", "Result"):
        from moa_jax.sampling import pipeline

        return getattr(pipeline, name)
    if name == "InputError":
        from moa_jax.errors import InputError

        return InputError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
