"""One attention layer of a system, with random weights, and something for it to look at.

What it should compute is written with numpy, and a plain attention layer.
"""

import jax
import jax.numpy as jnp
import numpy as np

from moa_jax.backbone.attention import Attention
from moa_jax.backbone.attention_kernels import xla
from moa_jax.config import MethodConfig
from moa_jax.method.prompt import Prompt

SIZES = {"heads": 2, "head_dim": 8}
METHOD = MethodConfig(initial_personalized_weight=0.4)
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
NOBODY = np.full((2, 2), 7)  # seven words: no subject


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


HIDDEN = normal(0, 2, 4, 4, 16)


def prompt(**given):
    """Two prompts of seven words: one with two subjects, one with one."""
    tokens, timesteps = jnp.array([[1, 4], [2, 7]]), jnp.array([300, 700])
    said = Prompt(
        jnp.array(normal(1, 2, 7, 12)), jnp.array(normal(2, 2, 7, 2, 12)), tokens, timesteps
    )
    return said._replace(**given)


def keys(*numbers):
    return jnp.stack([jax.random.key(number) for number in numbers])


def layer_of(variant, cross=True, block=0):
    return variant.attention(METHOD, xla)(**SIZES, cross=cross, block=block)


def start(layer, context, hidden=HIDDEN):
    return jax.jit(layer.init)(jax.random.key(2), hidden, context)["params"]


def move(params, spread=0.3):
    """Move all weights away from their start."""
    leaves, tree = jax.tree.flatten(params)
    moved = [leaf + spread * normal(seed, *leaf.shape) for seed, leaf in enumerate(leaves)]
    return jax.tree.map(np.asarray, tree.unflatten(moved))


def run(layer, params, context, hidden=HIDDEN):
    """The layer's output, and all that it sowed."""

    @jax.jit
    def apply(params, context, hidden):
        return layer.apply({"params": params}, hidden, context, mutable=["intermediates"])

    output, state = apply(params, context, hidden)
    return np.asarray(output), jax.tree.map(np.asarray, state["intermediates"])


def attend(params, context, hidden=HIDDEN, cross=True):
    """What a plain attention layer makes of it with the projections among these weights."""
    own = {name: params[name] for name in PROJECTIONS}
    layer = Attention(**SIZES, cross=cross)
    return np.asarray(jax.jit(layer.apply)({"params": own}, hidden, context))


def mix_values(query, key, value):
    """Attend with two heads of width 8; of "B L 16", "B S 16" and "B S 16"."""
    q, k, v = (each.reshape(*each.shape[:2], 2, 8) for each in (query, key, value))
    weights = softmax(np.einsum("blnd,bsnd->bnls", q, k) / np.sqrt(8))
    return np.einsum("bnls,bsnd->blnd", weights, v).reshape(query.shape)


def dense(own, source):
    return source @ own["kernel"] + own.get("bias", 0)


def softmax(logits):
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)
