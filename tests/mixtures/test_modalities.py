"""Weights by modality, experts that choose their pixels, and a gate by what is there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.attention_kernels import xla
from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.mixture import MixtureOfAttention
from moa_jax.method.prompt import Prompt
from moa_jax.method.sparse import Sparse
from moa_jax.method.variant import resolve
from moa_jax.mixtures.modalities import (
    ExpertChoiceRouter,
    MarkedPrompt,
    SubjectTokens,
    SubjectTokensExpert,
)
from moa_jax.testing.tried import Tried

HERE = "moa_jax.mixtures.modalities"
HIDDEN = jax.random.normal(jax.random.key(0), (2, 4, 3, 16))
TEXT = jax.random.normal(jax.random.key(1), (2, 7, 24))
SUBJECTS = jax.random.normal(jax.random.key(2), (2, 1, 2, 24))
PROMPT = Prompt(TEXT, SUBJECTS, jnp.array([[1, 4], [2, 7]]), jnp.array([3, 900]))


def attention(query, key, value):
    """Two heads of width 8, in numpy."""
    query, key, value = (
        each.reshape(*each.shape[:2], 2, 8).swapaxes(1, 2) for each in (query, key, value)
    )
    logits = query @ key.swapaxes(2, 3) / np.sqrt(8)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    return mixed.swapaxes(1, 2).reshape(len(query), -1, 16)


@pytest.mark.parametrize("own", [("to_k", "to_v"), ("to_v",)])
def test_each_token_is_projected_by_its_modality(own):
    method = MethodConfig(initial_personalized_weight=0.3)
    build = SubjectTokens(own=own).attention(method, xla)
    layer = build(heads=2, head_dim=8, cross=True)
    params = layer.init(jax.random.key(3), HIDDEN, PROMPT)["params"]
    assert params["personalized"].keys() == set(own)
    mixed = layer.apply({"params": params}, HIDDEN, PROMPT)

    text, hidden = np.asarray(TEXT), np.asarray(HIDDEN).reshape(2, 12, 16)
    kernels = {name: np.asarray(params[name]["kernel"]) for name in ("to_q", "to_k", "to_v")}
    theirs = {name: np.asarray(params["personalized"][name]["kernel"]) for name in own}
    keys = {name: text @ kernels[name] for name in ("to_k", "to_v")}
    prior = attention(hidden @ kernels["to_q"], *keys.values())
    for picture, subject, word in ((0, 0, 1), (0, 1, 4), (1, 0, 2)):
        for name, each in keys.items():
            token = np.asarray(SUBJECTS)[picture, 0, subject]
            each[picture, word] = token @ theirs.get(name, kernels[name])
    expert = attention(hidden @ kernels["to_q"], *keys.values())
    inner = 0.7 * prior + 0.3 * expert
    output = inner @ np.asarray(params["to_out.0"]["kernel"]) + np.asarray(
        params["to_out.0"]["bias"]
    )
    np.testing.assert_allclose(mixed, output.reshape(HIDDEN.shape), atol=2e-5)


def test_subjects_are_marked_and_the_prior_sees_no_mark():
    plain, marked = MarkedPrompt(*PROMPT).for_experts(0, ("personalized",))
    assert plain is TEXT
    np.testing.assert_array_equal(marked[..., -1], [[0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(marked[..., :-1], PROMPT.for_experts(0, ("personalized",))[1])


@pytest.fixture(
    scope="module", params=[f"{HERE}:SubjectTokens", "moa_jax.mixtures.presence:Presence"]
)
def tried(request):
    return Tried(request.param, {})


def test_nobody_means_the_prior_to_the_bit(tried):
    """Whatever was learnt; with somebody it is another picture."""
    alone = np.array([[1, 4], [8, 8]], np.int32)  # the second picture has no subject
    prediction, seen = tried.predict(tried.moved, alone)
    np.testing.assert_array_equal(prediction[1], tried.prior[1])
    assert np.abs(prediction[0] - tried.prior[0]).max() > 1e-3
    assert all(weights[0, ..., 1].min() > 0 for weights in seen.routing.values())


def test_presence_alone_is_a_rule_without_weights():
    method = MethodConfig(mixture="moa_jax.mixtures.presence:Presence", router="personalized")
    router = resolve(method.mixture).router(method)(experts=2)
    context = PROMPT._replace(tokens=jnp.array([[7, 4], [7, 7]]))
    routing, variables = router.init_with_output(jax.random.key(0), HIDDEN, context)
    assert not variables
    np.testing.assert_array_equal(routing[:, 0, 0], [[0, 1], [1, 0]])


def choosing(capacity, experts):
    router = ExpertChoiceRouter(experts, capacity=capacity, initial_personalized_weight=0.4)
    params = router.init(jax.random.key(0), HIDDEN, PROMPT)["params"]
    kernel = jax.random.normal(jax.random.key(4), params["logits"]["kernel"].shape)
    return router, {"params": {"logits": {**params["logits"], "kernel": kernel}}}


@pytest.mark.parametrize("capacity", [1 / 3, 1.0])
def test_every_expert_takes_its_best_pixels(capacity):
    router, variables = choosing(capacity, 3)
    routing = np.asarray(router.apply(variables, HIDDEN, PROMPT)).reshape(2, 12, 3)
    logits = jax.tree.map(np.asarray, variables["params"]["logits"])
    scores = np.asarray(HIDDEN).reshape(2, 12, 16) @ logits["kernel"] + logits["bias"]
    np.testing.assert_allclose(logits["bias"], np.log(0.2 / 0.8), rtol=1e-6)
    weights = 1 / (1 + np.exp(-scores))
    rank = np.argsort(np.argsort(-weights, axis=1), axis=1)
    weights = np.where(rank < round(12 * capacity), weights, 0)
    weights /= np.maximum(1, weights.sum(-1, keepdims=True))
    np.testing.assert_allclose(routing[..., 1:], weights, atol=1e-6)
    np.testing.assert_allclose(routing[..., 0], 1 - weights.sum(-1), atol=1e-6)
    assert ((routing[..., 1:] > 0).sum(1) == round(12 * capacity)).all()


def test_training_draws_other_pixels_and_drawing_none():
    router, variables = choosing(0.5, 2)
    noisy = []
    for seed in range(2):
        context = PROMPT._replace(keys=jax.random.split(jax.random.key(seed), 2))
        noisy.append(np.asarray(router.apply(variables, HIDDEN, context)[..., 1] > 0))
        assert (noisy[-1].sum((1, 2)) == 6).all()
    assert not np.array_equal(*noisy)
    calm = [router.apply(variables, HIDDEN, PROMPT) for _ in range(2)]
    np.testing.assert_array_equal(*calm)


@pytest.mark.parametrize("cross", [False, True])
def test_computing_the_chosen_pixels_alone_is_enough(cross):
    router = partial(ExpertChoiceRouter, capacity=0.5)
    layer = MixtureOfAttention(heads=2, head_dim=8, cross=cross, router=router)
    params = layer.init(jax.random.key(3), HIDDEN, PROMPT)["params"]
    params["router"]["logits"]["kernel"] = jax.random.normal(jax.random.key(5), (16, 1))
    dense, sparse = (
        layer.apply({"params": params}, HIDDEN, PROMPT._replace(sparse=sparse))
        for sparse in (None, Sparse(0.0, 0.5))
    )
    np.testing.assert_allclose(sparse, dense, atol=2e-6)


def test_a_sparse_drawing_knows_the_subjects_tokens():
    """The marks travel with the prompt, so that an expert at some pixels has them too."""
    layer = SubjectTokens().attention(MethodConfig(), xla)(heads=2, head_dim=8, cross=True)
    params = layer.init(jax.random.key(3), HIDDEN, PROMPT)["params"]
    dense, sparse = (
        layer.apply({"params": params}, HIDDEN, PROMPT._replace(sparse=sparse))
        for sparse in (None, Sparse(0.0, 1.0))
    )
    np.testing.assert_allclose(sparse, dense, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SubjectTokens(own=('to_q',))", "own="),
        ("SubjectTokens(own=())", "own="),
        ("ExpertChoice(capacity=0.0)", "capacity=0.0"),
        ("ExpertChoice(capacity=1.5)", "capacity=1.5"),
        ("ExpertChoice(count=0)", "count=0"),
    ],
)
def test_options_without_a_meaning_are_refused(name, says):
    with pytest.raises(InputError, match=says):
        resolve(f"{HERE}:{name}")


def test_as_many_experts_as_asked_for():
    variant = resolve(f"{HERE}:ExpertChoice(count=3)")
    names = ["personalized", "personalized_2", "personalized_3"]
    assert list(variant.experts(MethodConfig(), 0)) == names
    made = SubjectTokens().experts(MethodConfig(), 0)["personalized"]
    assert made.func is SubjectTokensExpert
