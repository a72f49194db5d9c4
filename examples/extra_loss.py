"""A loss term of your own: the router should be sure.

    python train.py configs/toy.py 'method.extra_loss=examples.extra_loss:certainty(weight=0.01)'

A term is a function of a forward pass; it is logged as `loss/certainty`.
"""

import jax.numpy as jnp


def certainty(forward, weight=0.01):
    """Punish weights that lie between the experts: their entropy, mean over layers and pixels.

    Args:
        forward: the pass, see `moa_jax.method.variant.Forward`.
        weight: factor of the term.

    Returns:
        The term by its name, already multiplied by its weight; 0 if every pixel has one expert.
    """
    layers = forward.seen.routing.values()
    entropies = [-jnp.mean(jnp.sum(r * jnp.log(r + 1e-6), axis=-1)) for r in layers]
    return {"certainty": weight * sum(entropies) / len(entropies)}
