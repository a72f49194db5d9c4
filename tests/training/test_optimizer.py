"""The optimizer over what learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import OptimizerConfig
from moa_jax.method.trained import partition
from moa_jax.training.optimizer import learning_rate, make_optimizer

PARAMS = {"a": {"kernel": jnp.full((2, 2), 3.0)}, "b": {"kernel": jnp.full((3,), 4.0)}}
MASK = {"a": {"kernel": True}, "b": {"kernel": False}}


def test_the_clip_is_over_what_learns():
    """A huge frozen gradient does not shrink the update of what learns."""
    config = OptimizerConfig(learning_rate=1.0, weight_decay=0.0, max_grad_norm=1.0)
    optimizer = make_optimizer(config, 10, MASK)
    # 0.1 has norm 0.2: (1 - b1) g, not clipped; 10 has norm 20, clipped to 1.
    for value, kept in ((0.1, 0.1), (10.0, 0.5)):
        gradient = {"a": {"kernel": jnp.full((2, 2), value)}, "b": {"kernel": jnp.full(3, 1e6)}}
        _, state = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
        (moment,) = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2, 2)][:1]
        np.testing.assert_allclose(moment, 0.1 * kept, rtol=1e-6)


def test_update_is_adamw_written_out():
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, max_grad_norm=1e9)
    optimizer = make_optimizer(config, 10, MASK)
    trained, _ = partition(PARAMS, MASK)
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 2.0), trained)
    updates, _ = optimizer.update(gradient, optimizer.init(trained), trained)
    # The first step of Adam is the gradient's sign; the decay is 0.5 of the weight.
    expected = -0.1 * (2.0 / (2.0 + 1e-8) + 0.5 * 3.0)
    np.testing.assert_allclose(updates["a"]["kernel"], np.full((2, 2), expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 0.0, 2: 0.5, 4: 1.0, 9: 1.0, 14: 1.0}),
        ("cosine", {0: 0.0, 2: 0.5, 4: 1.0, 9: 0.5, 14: 0.0}),
    ],
)
def test_learning_rate_warms_up_and_follows_its_schedule(schedule, expected):
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=4)
    rate = learning_rate(config, steps=14)
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, atol=1e-6)


def test_the_cosine_is_that_of_a_run_of_the_papers_length():
    """Values written down before, from a warm-up joined with half a cosine."""
    config = OptimizerConfig(learning_rate=1e-5, schedule="cosine", warmup_steps=5_000)
    rate = learning_rate(config, steps=150_000)
    expected = {1: 2e-9, 2_500: 5e-6, 5_000: 1e-5, 41_250: 8.535534e-6, 77_500: 5e-6}
    for step, value in {**expected, 149_999: 1.1737e-15, 150_000: 0.0}.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5, atol=1e-12)


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert learning_rate(OptimizerConfig(learning_rate=0.25), steps=3)(0) == 0.25


def test_routers_wait_for_their_first_step():
    """Until then they keep their weights, decay included, while their gradient is gathered."""
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, router_start=2)
    params = {"block": {"router": {"kernel": jnp.ones(2)}, "to_q": {"kernel": jnp.ones(2)}}}
    optimizer = make_optimizer(config, 10, jax.tree.map(lambda _: True, params))
    state, moved = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        moved.append([float(np.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(updates)])
    assert moved == [[False, True], [False, True], [True, True]]


def test_muon_moves_a_matrix_in_all_directions_alike():
    """Its update has equal singular values however unequal the gradient's; vectors go by Adam."""
    config = OptimizerConfig(learning_rate=0.1, muon_learning_rate=0.02, weight_decay=0.0)
    params = {"kernel": jnp.zeros((6, 6)), "bias": jnp.zeros(6)}
    optimizer = make_optimizer(config, 10, jax.tree.map(lambda _: True, params))
    matrix = np.random.default_rng(0).standard_normal((6, 6)) * 10.0 ** -(np.arange(6) ** 0.5)
    gradient = {"kernel": jnp.asarray(matrix, jnp.float32), "bias": jnp.arange(1.0, 7.0)}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    values = np.linalg.svd(updates["kernel"], compute_uv=False)
    assert np.linalg.cond(matrix) > 100 and values.min() > 0.25 * values.max()
    assert 0.01 < values.max() < 0.03
    np.testing.assert_allclose(updates["bias"], updates["bias"][0], rtol=1e-4)


def test_muon_decays_at_each_ones_own_rate():
    params = {"kernel": jnp.full((3, 3), 2.0), "bias": jnp.full(3, 2.0)}
    gradient = {"kernel": jnp.eye(3), "bias": jnp.ones(3)}
    updates = []
    for decay in (0.0, 0.5):
        config = OptimizerConfig(
            learning_rate=0.1, muon_learning_rate=0.02, weight_decay=decay, max_grad_norm=1e9
        )
        optimizer = make_optimizer(config, 10, jax.tree.map(lambda _: True, params))
        updates.append(optimizer.update(gradient, optimizer.init(params), params)[0])
    decayed = jax.tree.map(jnp.subtract, updates[1], updates[0])
    np.testing.assert_allclose(decayed["kernel"], np.full((3, 3), -0.02 * 0.5 * 2), rtol=1e-4)
    np.testing.assert_allclose(decayed["bias"], np.full(3, -0.1 * 0.5 * 2), rtol=1e-4)
