"""Programs compiled for a TPU, and what their operations do, told from their text."""

import jax

from tests.compiling import IN_A_HURRY


def compiled_as_for_users(lowered):
    """Compile without the tests' hurry, and without their store, which takes no TPU's programs."""
    try:
        jax.config.update("jax_disable_most_optimizations", False)
        jax.config.update("jax_enable_compilation_cache", False)
        return lowered.compile()
    finally:
        jax.config.update("jax_disable_most_optimizations", IN_A_HURRY)
        jax.config.update("jax_enable_compilation_cache", True)


def is_product(module, operation):
    """Whether an operation multiplies matrices, by itself or inside."""
    if operation.kind in ("convolution", "dot"):
        return True
    called = operation.called("calls") if operation.kind == "fusion" else []
    inside = [each for name in called for each in module.computations[name].values()]
    return any(is_product(module, each) for each in inside)
