"""Predictions of two passes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.method.prompt import Prompt
from moa_jax.method.variant import Observations, resolve
from moa_jax.mixtures.guidance import SelfContrast
from moa_jax.testing.tried import Tried

HERE = "moa_jax.mixtures.guidance:SelfContrast"


@pytest.fixture(scope="module")
def draw():
    """Draw with a small MoA, as it is or with contrast, and with the dial somewhere."""
    tried = Tried("moa", {})
    given = (tried.batch["latents"][..., :4], jnp.asarray(tried.timesteps), tried.text)
    subjects = (tried.features, jnp.asarray(tried.tokens))
    contrast = replace(tried.model, variant=SelfContrast(0.5))
    programs = [jax.jit(model.denoise) for model in (tried.model, contrast)]

    def predict(dial, contrasted=False):
        dials = jnp.full(len(tried.model.blocks), dial)
        return np.asarray(programs[contrasted](tried.moved, *given, *subjects, dial=dials)[0])

    return predict


@pytest.mark.slow
def test_drawing_goes_away_from_the_prior(draw):
    weak = draw(0.0)
    for dial in (1.0, 0.5):
        strong = draw(dial)
        assert np.abs(strong - weak).max() > 1e-2
        contrasted = draw(dial, contrasted=True)
        np.testing.assert_allclose(contrasted, strong + 0.5 * (strong - weak), atol=1e-5)


@pytest.mark.parametrize(
    ("beta", "keys", "count"), [(0.0, None, 1), (0.5, None, 2), (0.5, jnp.zeros(1), 1)]
)
def test_the_second_pass_is_made_only_where_it_counts(beta, keys, count):
    """Training, which has keys, makes one pass."""
    passes, nothing_seen = [], Observations({}, {}, {})

    def run(context):
        passes.append(context.dial)
        return jnp.ones((1, 2, 2, 4)), nothing_seen

    none = jnp.zeros((1, 3, 2, 8))  # three blocks
    context = Prompt(jnp.zeros((1, 7, 8)), none, jnp.zeros((1, 2), jnp.int32), jnp.zeros(1))
    assert SelfContrast(beta).predict(run, context._replace(keys=keys))[1] is nothing_seen
    assert len(passes) == count and passes[0] is None
    assert all(dial.tolist() == [0, 0, 0] for dial in passes[1:])


@pytest.mark.parametrize("beta", ["-0.1", "1e999"])
def test_going_towards_the_weak_prediction_is_refused(beta):
    with pytest.raises(InputError, match="beta="):
        resolve(f"{HERE}(beta={beta})")
