"""One expert a subject, and a text that is rewritten for the expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.attention_kernels import xla
from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.prompt import Prompt
from moa_jax.method.router import FixedRouter
from moa_jax.method.sparse import Sparse
from moa_jax.method.trained import leaf_paths
from moa_jax.method.variant import resolve
from moa_jax.mixtures.prompts import PerSubjectMixture
from moa_jax.testing.tried import Tried

HERE = "moa_jax.mixtures.prompts"


@pytest.fixture(scope="module")
def apart():
    return Tried(f"{HERE}:PerSubject", {})


@pytest.fixture(scope="module")
def rewritten():
    return Tried(f"{HERE}:PAdapters", {})


def draw(tried, swapped=False):
    order = slice(None, None, -1 if swapped else 1)
    given = (tried.batch["latents"][..., :4], jnp.asarray(tried.timesteps), tried.text)
    subjects = (tried.features[:, order], jnp.asarray(tried.tokens[:, order]))
    prediction, seen = tried._denoise(tried.moved, *given, *subjects)
    return np.asarray(prediction), jax.tree.map(np.asarray, seen)


@pytest.mark.slow
def test_the_order_of_subjects_is_that_of_their_routing_alone(apart):
    one, seen = draw(apart)
    other, swapped = draw(apart, swapped=True)
    np.testing.assert_allclose(other, one, atol=1e-5 * np.abs(one).max())
    assert len(seen.attention) == sum(path.endswith("attn2") for path in seen.routing)
    for path, weights in seen.routing.items():
        if path.endswith("attn2"):
            np.testing.assert_allclose(swapped.routing[path][..., [0, 2, 1]], weights, atol=1e-5)
            assert np.abs(weights[0, ..., 1] - weights[0, ..., 2]).max() > 1e-3
            assert (weights[1, ..., 2] == 0).all()  # the second picture has one subject
        else:
            np.testing.assert_allclose(swapped.routing[path], weights, atol=1e-5)
    for path, attention in seen.attention.items():
        np.testing.assert_allclose(swapped.attention[path][..., ::-1], attention, atol=1e-5)


@pytest.mark.slow
def test_nobody_means_the_prior_to_the_bit(apart):
    prediction, _ = apart.predict(apart.moved, apart.nobody)
    np.testing.assert_array_equal(prediction, apart.prior)


def test_the_subjects_share_the_weight_that_one_has_at_first(apart):
    _, seen = apart.predict(apart.params, apart.tokens)
    for weights in seen.routing.values():
        np.testing.assert_allclose(weights[..., 0], 0.6, atol=1e-6)


HIDDEN = jax.random.normal(jax.random.key(0), (1, 3, 4, 16))
SUBJECTS = jax.random.normal(jax.random.key(1), (1, 1, 2, 24))
TEXT = jax.random.normal(jax.random.key(2), (1, 7, 24))
PROMPT = Prompt(TEXT, SUBJECTS, jnp.array([[1, 4]]), jnp.array([3]))


class OnlyTheFirst(FixedRouter):
    weights: tuple[float, ...] = (0.5, 0.5, 0.0)


def test_a_subject_is_seen_by_its_own_expert_alone():
    """Where a subject has no weight, its picture has no gradient: no other expert reads it."""
    layer = PerSubjectMixture(heads=2, head_dim=8, cross=True, router=OnlyTheFirst)
    params = layer.init(jax.random.key(3), HIDDEN, PROMPT)

    def size(subjects):
        mixed = layer.apply(params, HIDDEN, PROMPT._replace(subjects=subjects))
        return jnp.sum(jnp.square(mixed))

    slope = jax.grad(size)(SUBJECTS)[0, 0]
    assert jnp.abs(slope[0]).max() > 1e-4
    np.testing.assert_array_equal(slope[1], 0)


@pytest.mark.parametrize("cross", [False, True])
def test_sparse_routing_computes_the_same(cross):
    build = resolve(f"{HERE}:PerSubject").attention(MethodConfig(), xla)
    layer = build(heads=2, head_dim=8, cross=cross)
    params = layer.init(jax.random.key(3), HIDDEN, PROMPT)
    dense, everything, nothing, prior = (
        layer.apply(params, HIDDEN, PROMPT._replace(sparse=sparse, dial=dial))
        for sparse, dial in (
            (None, None),
            (Sparse(0.0, 1.0), None),
            (Sparse(1.0, 1.0), None),
            (None, jnp.zeros(1)),
        )
    )
    np.testing.assert_allclose(everything, dense, atol=2e-6)
    np.testing.assert_allclose(nothing, prior, atol=2e-6)
    assert jnp.abs(dense - prior).max() > 1e-4


@pytest.mark.slow
def test_only_the_expert_reads_the_rewritten_text(rewritten):
    variant, tried = rewritten.variant, rewritten
    module = variant.prompt(tried.method, 1, jnp.float32)
    given = (tried.text, tried.features, jnp.asarray(tried.tokens), jnp.asarray(tried.timesteps))
    params = tried.moved["prompt"]
    prior, expert = module.apply({"params": params}, *given).for_experts(0, ("personalized",))
    np.testing.assert_array_equal(prior, tried.text)

    def one(gate):
        """The prompt under a gate that chooses one adapter."""
        bias = jnp.full(2, -1e9).at[gate].set(0.0)
        chosen = {
            **params,
            "gate": {"kernel": jnp.zeros_like(params["gate"]["kernel"]), "bias": bias},
        }
        return module.apply({"params": chosen}, *given).for_experts(0, ("personalized",))[1]

    portraits = np.asarray(tried.features)
    mean = np.stack([portraits[0].mean(0), portraits[1, 0]])  # the second picture has one subject
    centred = mean - mean.mean(-1, keepdims=True)
    norm, gate = (jax.tree.map(np.asarray, params[name]) for name in ("norm_gate", "gate"))
    normal = centred / np.sqrt(mean.var(-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]
    logits = normal @ gate["kernel"] + gate["bias"]
    gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mixed = gates[:, 0, None, None] * one(0) + gates[:, 1, None, None] * one(1)
    np.testing.assert_allclose(expert, mixed, atol=1e-5)
    assert np.abs(one(0) - one(1)).max() > 1e-2 and np.abs(gates[0] - gates[1]).max() > 1e-3


def test_nothing_is_added_to_the_unet_but_routers(rewritten):
    plain = leaf_paths({"unet": rewritten.base.unet.params})
    added = leaf_paths({"unet": rewritten.params["unet"]}).keys() - plain.keys()
    assert added and all(".attn2.router." in path for path in added)


@pytest.mark.parametrize("name", ["PerSubject(width=0)", "PAdapters(count=1)"])
def test_options_without_a_meaning_are_refused(name):
    with pytest.raises(InputError, match=name.partition("(")[2][:-1]):
        resolve(f"{HERE}:{name}")
