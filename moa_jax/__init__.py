"""Mixture-of-Attention (MoA, arXiv 2404.11565) for Stable Diffusion, in JAX and Flax.

`Pipeline` draws pictures and `train` trains; `train.py` is its command line. The folders are the
theory: `method` is the paper, `backbone` is Stable Diffusion, `diffusion` the noise schedule and
the samplers.
"""

from importlib import import_module
from typing import Any

from moa_jax.runtime import quiet

__version__ = "0.1.0"
_OFFERED = {  # and the module that each comes from
    "Control": "moa_jax.sampling.control",
    "InputError": "moa_jax.errors",
    "MoAWeights": "moa_jax.hub.weights",
    "Pipeline": "moa_jax.sampling.pipeline",
    "Result": "moa_jax.sampling.compiled",
    "Settings": "moa_jax.sampling.settings",
    "Strength": "moa_jax.sampling.settings",
    "save_result": "moa_jax.sampling.save",
    "train": "moa_jax.training.run",
}
__all__ = [*_OFFERED, "__version__"]

quiet()  # here, because it must come before jax


def __getattr__(name: str) -> Any:
    """Import on first use: `import moa_jax.data` must not load jax."""
    if name in _OFFERED:
        return getattr(import_module(_OFFERED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
