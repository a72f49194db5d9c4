"""The whole training objective, value and gradient, against one written in PyTorch."""

import jax
import numpy as np
import pytest

from moa_jax.method.trained import leaf_paths
from tests.training.test_objective import literal_draws
from tests.training.tiny import random_batch


@pytest.fixture(scope="module")
def perturbed(gradient):
    """A state with every trained weight moved, so that no term and no gradient is zero."""
    random = np.random.default_rng(0)
    state, frozen = gradient.start()
    moved = jax.tree.map(
        lambda leaf: leaf + 0.1 * random.standard_normal(leaf.shape, np.float32), state.trained
    )
    return state.replace(trained=moved), frozen


@pytest.fixture(scope="module")
def compared(tiny_folder, config, perturbed, gradient):
    """(our numbers, the oracle's terms, our gradient, the oracle's) of one batch."""
    pytest.importorskip("torch")
    from tests.training.oracle import Oracle

    (state, frozen), batch = perturbed, random_batch(0)
    step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 0)
    draws = literal_draws(jax.random.split(step_key, len(batch["image"])))
    masked, present = draws[3], batch["subject_present"].any(axis=1)
    assert (masked & present).any() and (~masked).any()  # else half of the term is not asked for
    oracle = Oracle(tiny_folder, leaf_paths(jax.device_get(state.trained)))
    terms = oracle.loss(batch, draws, config.method)
    terms["total"].backward()
    expected = {path: leaf.grad.numpy() for path, leaf in oracle.weights.items()}
    after, numbers = gradient.step(state, frozen, batch)
    ours = leaf_paths(jax.device_get(after.optimizer.trace))
    return jax.device_get(numbers), {k: v.item() for k, v in terms.items()}, ours, expected


@pytest.mark.parametrize("term", ["denoising", "router", "object", "total"])
def test_every_term_is_that_of_the_oracle(compared, term):
    numbers, terms, _, _ = compared
    assert abs(terms[term]) > 1e-4
    np.testing.assert_allclose(numbers[f"loss/{term}"], terms[term], rtol=1e-5)


def test_every_gradient_is_that_of_the_oracle(compared):
    _, _, ours, expected = compared
    assert ours.keys() == expected.keys()
    whole = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in expected.values()))
    for path, leaf in expected.items():
        off, size = np.linalg.norm(ours[path] - leaf), np.linalg.norm(leaf)
        # A bias of keys moves all scores of a softmax alike: its gradient is zero but for rounding.
        assert off < 1e-5 * size + 1e-7 * whole, path
        assert size > 1e-6 * whole or path.endswith("k_proj.bias"), path
