"""A layer of feed-forward experts on eight devices, and what it should compute, with numpy."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jax.sharding import Mesh

from moa_jax.backbone.transformer import FeedForward
from tests.mixtures.one_layer import normal, softmax

DEVICES, EXPERTS, TOKENS, WIDTH = 8, 16, 96, 8


def feed_forward(weights, tokens):
    """Stable Diffusion's feed-forward network, as an expert."""
    return FeedForward().apply({"params": weights}, jnp.asarray(tokens)[None, None])[0, 0]


@cache
def mesh():
    return Mesh(np.asarray(jax.devices()[:DEVICES]), ("expert",))


@cache
def tokens():
    return normal(5, TOKENS, WIDTH)


@cache
def layer(experts=EXPERTS):
    """Experts of very different popularity."""
    shapes = {"net.0.proj": (WIDTH, 8 * WIDTH), "net.2": (4 * WIDTH, WIDTH)}
    weights = {
        name: {"kernel": normal(7, experts, *shape) / 3, "bias": normal(8, experts, shape[1]) / 3}
        for name, shape in shapes.items()
    }
    router = normal(9, WIDTH, experts) * np.linspace(0.2, 2.0, experts, dtype=np.float32)
    return {"router": router, "experts": weights}


def computed(weights, expert, tokens):
    """One expert's output."""
    first, second = (jax.tree.map(lambda leaf: leaf[expert], weights[n]) for n in weights)
    value, gate = np.split(tokens @ first["kernel"] + first["bias"], 2, axis=-1)
    gelu = gate * (1 + np.asarray(erf(gate / math.sqrt(2)))) / 2
    return (value * gelu) @ second["kernel"] + second["bias"]


def routed(logits, keep):
    """(the experts of every token, the best first; their weights)."""
    choice = np.argsort(-logits, axis=-1, kind="stable")[:, :keep]
    weights = np.take_along_axis(softmax(logits), choice, axis=-1)
    return choice, weights if keep == 1 else weights / weights.sum(-1, keepdims=True)


def dense(layer, tokens, keep, room=lambda device, expert: math.inf):
    """Every token by its experts, one by one; `room` is what a device's buffer for one holds."""
    choice, weights = routed(tokens @ layer["router"], keep)
    outputs, dropped = np.zeros_like(tokens), 0
    for device, own in enumerate(np.split(np.arange(len(tokens)), DEVICES)):
        waiting = dict.fromkeys(range(layer["router"].shape[1]), 0)
        for place in range(keep):
            for token in own:
                expert = int(choice[token, place])
                waiting[expert] += 1
                if waiting[expert] > room(device, expert):
                    dropped += 1
                    continue
                made = computed(layer["experts"], expert, tokens[token : token + 1])[0]
                outputs[token] += weights[token, place] * made
    return outputs, dropped


def differentiable(layer, tokens, keep):
    """The same without buffers, in JAX, for its gradients."""
    shares, choice = jax.lax.top_k(jax.nn.softmax(tokens @ layer["router"]), keep)
    shares = shares / jnp.sum(shares, axis=-1, keepdims=True)
    made = jax.vmap(feed_forward, in_axes=(0, None))(layer["experts"], tokens)
    mine = made[choice, jnp.arange(len(tokens))[:, None]]
    return jnp.sum(shares[..., None] * mine, axis=1)
