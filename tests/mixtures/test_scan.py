"""A state that passes over the prompt and the pixels, step by step in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.method.sparse import Sparse
from moa_jax.method.variant import resolve
from moa_jax.mixtures.scan import Mamba, first_step, scan_states
from tests.mixtures.one_layer import (
    HIDDEN,
    NOBODY,
    attend,
    dense,
    layer_of,
    move,
    normal,
    prompt,
    run,
    start,
)

NAME = "moa_jax.mixtures.scan:MixtureOfMamba"
VARIANT = resolve(f"{NAME}(state=3, expand=2)")
PROMPT, PIXELS = normal(0, 2, 5, 12), normal(1, 2, 6, 16)
SUBJECTS = np.array([[0, 1, 0, 1, 0], [0, 0, 1, 0, 0]], bool)[..., None]
GIVEN = tuple(jnp.array(each) for each in (PROMPT, SUBJECTS, PIXELS))
MODULE = Mamba(state=3, expand=2)


@pytest.fixture(scope="module")
def params():
    return move(jax.jit(MODULE.init)(jax.random.key(0), *GIVEN)["params"])


def silu(values):
    return values / (1 + np.exp(-values))


def one_way(own, told, kinds):
    """Pass over one sequence of input projections, token by token; "T I" and T names."""
    padded = np.concatenate([np.zeros((3, told.shape[1]), np.float32), told])
    state, found = np.zeros((told.shape[1], 3)), []
    for place, kind in enumerate(kinds):
        window = padded[place : place + 4]
        value = silu((window * own["conv"]["kernel"][:, 0]).sum(0) + own["conv"]["bias"])
        step, entry, exit = np.split(dense(own[f"x.{kind}"], value), [1, 4])
        step = np.log1p(np.exp(dense(own[f"dt.{kind}"], step)))
        decay = np.exp(-step[:, None] * np.exp(own["rates"]))
        state = decay * state + (step * value)[:, None] * entry
        found.append(state @ exit + own["skip"] * value)
    return np.array(found)


def told(own, row, pixels):
    """What one picture's pixels find."""
    kinds = ["subjects" if mark else "words" for mark in SUBJECTS[row, :, 0]]
    words = [
        dense(own[f"into.{kind}"], word) for kind, word in zip(kinds, PROMPT[row], strict=True)
    ]
    seen = dense(own["into.pixels"], pixels)
    kinds += ["pixels"] * len(pixels)
    there = one_way(own, np.concatenate([words, seen]), kinds)[5:]
    back = one_way(own, np.concatenate([words, seen[::-1]]), kinds)[5:][::-1]
    return dense(own["out.pixels"], (there + back) * silu(dense(own["gate.pixels"], pixels)))


def test_a_state_passes_over_prompt_and_pixels(params):
    output = jax.jit(MODULE.apply)({"params": params}, *GIVEN)
    expected = np.stack([told(params, row, PIXELS[row]) for row in range(2)])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_the_parallel_scan_is_the_recurrence():
    decay, drive = 1 / (1 + np.exp(-normal(0, 2, 11, 3))), normal(1, 2, 11, 3)
    state, expected = 0, []
    for place in range(11):
        state = decay[:, place] * state + drive[:, place]
        expected.append(state)
    found = scan_states(jnp.array(decay), jnp.array(drive))
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)


def test_the_cost_grows_as_the_length():
    def flops(length):
        shape = (1, length, 4, 3)
        given = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 2
        return jax.jit(scan_states).lower(*given).cost_analysis()["flops"]

    assert 1.9 < flops(2048) / flops(1024) < 2.1


def test_weights_of_a_modality_have_gradients_from_its_tokens_alone(params):
    @jax.jit
    @jax.grad
    def slope(params, subjects):
        found = MODULE.apply({"params": params}, GIVEN[0], subjects, GIVEN[2])
        return jnp.sum(jnp.square(found))

    for subjects, idle in ((SUBJECTS, None), (0 * SUBJECTS, "subjects"), (1 | SUBJECTS, "words")):
        found = slope(params, jnp.array(subjects, bool))
        for name, part in found.items():
            size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(part))
            assert (size == 0) == (idle is not None and name.endswith(f".{idle}")), name


def test_a_fresh_scan_leaves_the_prior_and_without_a_subject_the_text():
    layer, said = layer_of(VARIANT), prompt()
    fresh = start(layer, said)
    mixed, seen = run(layer, fresh, said._replace(tokens=jnp.array(NOBODY)))
    np.testing.assert_array_equal(mixed, attend(fresh, said.text))
    assert seen["personalized"]["attention"][0].shape == (2, 2, 4, 4, 2)
    moved, _ = run(layer, move(fresh), said)
    assert np.abs(moved - mixed).max() > 0.1


def test_first_steps_of_time_are_short():
    step = np.log1p(np.exp(np.asarray(first_step(jax.random.key(0), (500,)))))
    assert step.min() >= 0.99e-3 and step.max() <= 0.101 and step.std() > 0.01


def test_a_scan_over_some_of_the_pixels_is_refused():
    layer, said = layer_of(VARIANT), prompt(sparse=Sparse(0.0, 0.5))
    with pytest.raises(InputError, match=r"capacity=0.5: a scan passes over all pixels"):
        start(layer, said, HIDDEN)


@pytest.mark.parametrize("options", ["state=0", "expand=0"])
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(InputError, match=options):
        resolve(f"{NAME}({options})")
