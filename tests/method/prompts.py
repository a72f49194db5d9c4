"""The prompt as training might have left it."""

import jax
from flax.traverse_util import flatten_dict, unflatten_dict


def speak(prompt_params):
    """Let subjects show: what they add to their words starts as zero."""
    flat = flatten_dict(prompt_params)
    path = ("conditioning", "mlp", "fc2", "kernel")
    kernel = jax.nn.initializers.lecun_normal()(jax.random.key(1), flat[path].shape)
    return unflatten_dict({**flat, path: kernel})
