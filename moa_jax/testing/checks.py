"""What is expected of every variant: one function for each check, which raises AssertionError."""

import dataclasses
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from moa_jax.config import Config
from moa_jax.method.identity import Identity
from moa_jax.method.model import build
from moa_jax.method.trained import (
    combine,
    fixed_additions,
    is_added,
    leaf_paths,
    learning_mask,
    partition,
)
from moa_jax.method.variant import name_of, resolve
from moa_jax.method.weights import MoaCard, load_moa, read_moa_card, save_moa
from moa_jax.testing.tried import Tried
from moa_jax.training.mesh import AXES, weight_spec
from moa_jax.training.objective import make_objective

NEARLY = 1e-5  # as a share of the largest value: float32 sums in another order


def _prior_exact(tried: Tried) -> None:
    prediction, _ = tried.predict(tried.moved, tried.tokens, dial=0.0)
    off = np.abs(prediction - tried.prior).max()
    assert off == 0, f"with the dial at 0 the prediction is off Stable Diffusion's by {off:.2g}"


def _prior_at_start(tried: Tried) -> None:
    prediction, _ = tried.predict(tried.params, tried.nobody)
    off = np.abs(prediction - tried.prior).max() / np.abs(tried.prior).max()
    assert off <= NEARLY, (
        f"fresh, and without a subject, the prediction is off Stable Diffusion's by {off:.2g} of it"
    )


def _tree(tried: Tried) -> None:
    base = flatten_dict(tried.base.unet.params)
    ours = flatten_dict(tried.params["unet"])
    rest = {path: leaf for path, leaf in ours.items() if not is_added(".".join(("unet", *path)))}
    differing = sorted(".".join(path) for path in rest.keys() ^ base.keys())
    assert not differing, f"without what is added, the U-Net differs at {differing[:3]}"
    replaced = [".".join(path) for path, leaf in base.items() if rest[path] is not leaf]
    assert not replaced, f"the prior's own weights were replaced at {replaced[:3]}"


def _saved_and_loaded(tried: Tried) -> None:
    mask = learning_mask(tried.moved, tried.method)
    trained, frozen = partition(tried.moved, mask)
    identity = Identity.of(tried.base)
    card = MoaCard(Config(method=tried.method), identity, 1)
    before, _ = tried.predict(tried.moved, tried.tokens)
    with tempfile.TemporaryDirectory() as folder:
        save_moa(folder, trained, card, jax.tree.map(np.asarray, fixed_additions(frozen)))
        read = read_moa_card(folder).config.method
        assert read == tried.method, f"the card says {read} instead of {tried.method}"
        _, shapes = tried.build(None)  # whoever loads weights has shapes alone
        loaded = load_moa(folder, shapes, identity)
    missing = [
        path for path, leaf in leaf_paths(loaded).items() if isinstance(leaf, jax.ShapeDtypeStruct)
    ]
    assert not missing, f"the file does not hold {missing[:3]}"
    after, _ = tried.predict(loaded, tried.tokens)
    assert np.array_equal(before, after), "the loaded weights predict something else"


def _gradients(tried: Tried) -> None:
    mask = learning_mask(tried.params, tried.method)
    trained, frozen = partition(tried.params, mask)
    objective = make_objective(tried.model, tried.schedule, tried.method)
    step = jax.jit(jax.value_and_grad(objective, has_aux=True))
    reached: dict[str, bool] = {}
    # In the first step, what starts as zero lets no gradient through to what is before it.
    for number in range(2):
        keys = jax.random.split(jax.random.key(number), 2)
        (loss, _), slope = step(trained, frozen, tried.batch, keys)
        assert np.isfinite(loss), f"the loss is {loss}"
        for path, leaf in leaf_paths(slope).items():
            reached[path] = reached.get(path, False) or bool(jnp.abs(leaf).max() > 0)
        trained = jax.tree.map(lambda leaf, change: leaf - 0.1 * change, trained, slope)
    idle = sorted(path for path, any_slope in reached.items() if not any_slope)
    assert not idle, f"in two steps no gradient reaches {len(idle)} leaves, such as {idle[:3]}"
    learned = {path for path, on in leaf_paths(mask).items() if on}
    assert reached.keys() == learned, "what has a gradient is not what `learns` says"
    joined = leaf_paths(combine(trained, frozen))
    assert joined.keys() == leaf_paths(tried.params).keys()


def _routing(tried: Tried) -> None:
    for params in (tried.params, tried.moved):
        _, seen = tried.predict(params, tried.tokens)
        for layer, weights in seen.routing.items():
            low, high = float(weights.min()), float(weights.max())
            assert low >= 0 and high <= 1, f"{layer}: weights from {low} to {high}"
            total = np.abs(np.asarray(weights, np.float64).sum(-1) - 1).max()
            assert total <= NEARLY, f"{layer}: the weights miss a sum of 1 by {total:.2g}"


def _pictures_apart(tried: Tried) -> None:
    one, _ = tried.predict(tried.moved, tried.tokens)
    other, _ = tried.predict(tried.moved, tried.tokens, mirrored=True)
    assert not np.array_equal(one[0], other[0]), "a picture does not depend on its own latents"
    off = np.abs(one[1] - other[1]).max() / np.abs(one).max()
    assert off <= NEARLY, f"a picture depends on the others of its batch: by {off:.2g} of it"


def _shapes_alone(tried: Tried) -> None:
    described = {}
    for name in ("unet", "vae", "text_encoder", "image_encoder"):
        network = getattr(tried.base, name)
        shapes = jax.eval_shape(lambda params: params, network.params)
        described[name] = dataclasses.replace(network, params=shapes)
    base = dataclasses.replace(tried.base, **described)
    _, planned = build(base, tried.method, dtype=jnp.float32, key=None)
    wanted, found = leaf_paths(tried.params), leaf_paths(planned)
    differing = sorted(
        path
        for path in wanted.keys() | found.keys()
        if path not in found or path not in wanted or wanted[path].shape != found[path].shape
    )
    assert not differing, f"from shapes alone other parameters are planned: {differing[:3]}"
    # Half of the channels: the other half are the VAE's deviations.
    given = (tried.batch["latents"][..., :4], jnp.asarray(tried.timesteps), tried.text)
    jax.eval_shape(tried.model.denoise, planned, *given, tried.features, jnp.asarray(tried.tokens))
    axes = dict.fromkeys(AXES, 2)
    for path, leaf in found.items():
        spec = weight_spec(path, leaf.shape, axes)
        assert len(spec) <= len(leaf.shape), f"{path} {leaf.shape} is to be split as {spec}"


def _named(tried: Tried) -> None:
    name = name_of(tried.variant)
    again = resolve(name)
    assert again == tried.variant, f"{name} makes {again} instead of {tried.variant}"
    model, _ = tried.build(None)
    # Shapes are remembered on disk under a description of the networks.
    assert repr(model) == repr(tried.model), "built twice, the networks are described differently"


# In the order in which they are tried: what fails first explains what fails later.
CHECKS: dict[str, Callable[[Tried], None]] = {
    "named": _named,
    "tree": _tree,
    "shapes_alone": _shapes_alone,
    "prior_at_start": _prior_at_start,
    "prior_exact": _prior_exact,
    "routing": _routing,
    "pictures_apart": _pictures_apart,
    "gradients": _gradients,
    "saved_and_loaded": _saved_and_loaded,
}
