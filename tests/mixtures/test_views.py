"""A portrait as a whole and in quarters, against numpy and literals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.method.prompt import Fusion
from moa_jax.method.variant import Moment, resolve
from moa_jax.mixtures.views import Resampler, TwoViews, nucleus, quarters
from tests.mixtures.one_layer import METHOD, dense, move, normal, softmax
from tests.mixtures.test_vision import gelu, normalised, read

WIDTH, TOKENS = 16, np.array([[1, 4], [2, 13]])
TEXT, FEATURES = normal(1, 2, 13, WIDTH), normal(2, 2, 2, 5 + 16 * 6)
GIVEN = tuple(jnp.array(each) for each in (TEXT, FEATURES, TOKENS, np.array([300, 700])))


def make(share=1.0):
    plain = TwoViews(width=6, grid=4, share=share, temperature=0.5)
    return plain.prompt(METHOD, 2, jnp.float32)


@pytest.fixture(scope="module")
def params():
    return move(jax.jit(make().init)(jax.random.key(0), *GIVEN)["params"])


def tell(params, share):
    apply = jax.jit(lambda params: make(share).apply({"params": params}, *GIVEN))
    texts = apply(params).for_experts(1, ("personalized",))
    return [np.asarray(each) for each in texts]


def mlp(own, values):
    return dense(own["fc2"], gelu(dense(own["fc1"], normalised(own["norm"], values))))


def added(params, row, column, chosen):
    """What the quarters of a portrait add to the text at their places, and their cosines."""
    own = params["local_resampler"]
    patches = FEATURES[row, column, 5:].reshape(4, 4, 6)
    corners = [(0, 0), (0, 2), (2, 0), (2, 2)]
    cut = [patches[y : y + 2, x : x + 2].reshape(4, 6) for y, x in corners]
    few = np.concatenate([read(own["reader"], own["queries"], each) for each in cut])
    few = normalised(params["local_norm"], few)
    word = TEXT[row, TOKENS[row, column]]
    cosines = few @ word / np.linalg.norm(few, axis=-1) / np.linalg.norm(word)
    local = mlp(params["local_out"], few)
    return np.where(chosen(softmax(cosines / 0.5))[:, None], local, 0)


def until(share):
    """Choose the likeliest until they have the share, one after the other."""

    def choose(weights):
        kept, total = np.zeros(len(weights), bool), 0.0
        for place in np.argsort(-weights):
            if total <= share:
                kept[place] = True
            total += weights[place]
        return kept

    return choose


@pytest.mark.parametrize("share", [1.0, 0.4, 0.0])
def test_quarters_are_reduced_and_the_word_chooses_among_them(params, share):
    prior, expert = tell(params, share)
    np.testing.assert_array_equal(prior, TEXT)
    for row, column in ((0, 0), (0, 1), (1, 0)):  # the second picture has one subject
        local = added(params, row, column, until(share))
        count = (np.abs(local).max(-1) > 0).sum()
        assert 1 <= count <= 4 and count == {1.0: 4, 0.0: 1}.get(share, count)
        places = 12 - 4 * column - np.arange(4)
        np.testing.assert_allclose(expert[row, places], TEXT[row, places] + local, atol=2e-5)
    rest = [0, 1, *range(3, 9)]
    np.testing.assert_array_equal(expert[1, rest], TEXT[1, rest])


def test_the_whole_is_two_adapters_under_a_gate(params):
    own = params["global_resampler"]
    pooled, patches = FEATURES[..., :5], FEATURES[..., 5:].reshape(2, 2, 16, 6)
    gates = softmax(dense(params["global_gate"], pooled))
    read_all = [[read(own["reader"], own["queries"], each)[0] for each in row] for row in patches]
    plain = mlp(params["global_mlp"], pooled)
    whole = gates[..., :1] * plain + gates[..., 1:] * np.array(read_all)
    word = np.take_along_axis(TEXT, np.minimum(TOKENS, 12)[..., None], axis=1)
    fused = Fusion().apply({"params": params["fusion"]}, jnp.array(word), jnp.array(whole))
    inner = make().conditioning(layers=2, dtype=jnp.float32)
    conditioned = inner.apply({"params": params["conditioning"]}, jnp.array(word), fused, GIVEN[3])
    _, expert = tell(params, 1.0)
    for row, column in ((0, 0), (0, 1), (1, 0)):
        found = expert[row, TOKENS[row, column]]
        np.testing.assert_allclose(found, conditioned[row, 1, column], atol=2e-5)


def test_a_query_that_prefers_nothing_takes_the_mean():
    tokens = jnp.array(normal(0, 3, 4, 6))
    module = Resampler(1, WIDTH)
    params = move(module.init(jax.random.key(0), tokens)["params"])
    own = params["reader"] | {"to_q": {"kernel": np.zeros((WIDTH, WIDTH), np.float32)}}
    known = normalised(own["norm"], dense(own["into"], np.asarray(tokens)) + own["places"])
    mean = dense(own["to_v"], known).mean(1, keepdims=True)
    np.testing.assert_allclose(
        module.apply({"params": params | {"reader": own}}, tokens), mean, atol=1e-5
    )


def test_the_likeliest_are_kept_until_they_have_the_share():
    scores = jnp.log(jnp.array([0.1, 0.5, 0.25, 0.15]))
    for share, kept in (
        (0.0, [1]),
        (0.49, [1]),
        (0.6, [1, 2]),
        (0.8, [1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ):
        assert np.flatnonzero(nucleus(scores, share)).tolist() == kept, share
    assert np.flatnonzero(nucleus(jnp.zeros(4), 0.3)).tolist() == [0, 1]


def test_quarters_are_cut_row_by_row():
    cut = quarters(jnp.arange(16.0).reshape(1, 16, 1))[0, ..., 0]
    assert cut.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize(
    ("progress", "learning"),
    [(0.1, {"global"}), (0.5, {"local"}), (0.9, {"global", "local"}), (None, {"global", "local"})],
)
def test_the_halves_learn_in_turn(params, progress, learning):
    variant = TwoViews(width=6, grid=4, share=1.0)

    @jax.jit
    @jax.grad
    def slope(prompt):
        times = None if progress is None else jnp.full(2, progress)
        held = variant.weights({"prompt": prompt, "unet": {}}, Moment(GIVEN[3], times))["prompt"]
        told = make().apply({"params": held}, *GIVEN)
        return jnp.sum(jnp.square(told.subjects))

    for name, part in slope(params).items():
        half = "local" if name.startswith("local_") else "global"
        size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(part))
        assert (size > 0) == (half in learning), name


@pytest.mark.parametrize(
    "options", ["width=0", "grid=3", "queries=0", "share=1.1", "temperature=0.0"]
)
def test_options_without_a_meaning_are_refused(options):
    named = options.replace("width=0", "widths=")
    with pytest.raises(InputError, match=named):
        resolve(f"moa_jax.mixtures.views:TwoViews({options})")
