"""A subject is bound to its own word, and to nothing else."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax.config import MethodConfig
from moa_jax.method.prompt import (
    Fusion,
    TimeLayerConditioning,
    fourier_features,
    replace_tokens,
)
from moa_jax.method.variant import Variant
from tests.method.prompts import speak

EXPERTS = ("personalized",)


def personalized(said, features, block=0, timesteps=None):
    timesteps = said.timesteps if timesteps is None else timesteps
    prompt = said.prompter.apply(
        {"params": said.prompt_params}, said.text, features, said.tokens, timesteps
    )
    return prompt.for_experts(block, EXPERTS)[1]


def test_a_picture_has_zero_gradient_on_the_tokens_of_another(said):
    of_features = jax.jacobian(lambda features: personalized(said, features))
    jacobian = jax.jit(of_features)(said.features)
    for picture, positions in enumerate(np.asarray(said.tokens)):
        for subject, position in enumerate(positions):
            reaches = np.abs(jacobian[picture, :, :, picture, subject]).sum((1, 2))
            expected = [place == position for place in range(said.text.shape[1])]
            np.testing.assert_array_equal(reaches > 0, expected)
    assert np.all(jacobian[0, :, :, 1] == 0)
    assert np.all(jacobian[1, :, :, 0] == 0)


def test_training_starts_at_the_words(said):
    arguments = said.text, said.features, said.tokens, said.timesteps
    prompt, _ = said.prompter.init_with_output(jax.random.key(3), *arguments)
    for block in range(len(said.blocks)):
        np.testing.assert_array_equal(prompt.for_experts(block, EXPERTS)[1], said.text)


def test_words_without_a_subject_keep_their_text(said):
    changed = np.asarray(personalized(said, said.features) != said.text).any(-1)
    expected = np.zeros((2, 7), bool)
    expected[0, [1, 4]] = expected[1, 2] = True
    np.testing.assert_array_equal(changed, expected)


def test_the_prior_never_sees_a_subject(said):
    np.testing.assert_array_equal(said.prompt.for_experts(0, EXPERTS)[0], said.text)


def test_a_subject_depends_on_its_word(said):
    """The same picture bound to another word is another embedding."""
    prompt = said.prompter.apply(
        {"params": said.prompt_params},
        said.text,
        said.features,
        jnp.array([[3, 4], [2, 7]]),
        said.timesteps,
    )
    assert np.abs(prompt.subjects[0, 0, 0] - said.prompt.subjects[0, 0, 0]).max() > 1e-2
    unmoved = prompt.subjects[0, 0, 1], said.prompt.subjects[0, 0, 1]
    np.testing.assert_allclose(*unmoved, atol=1e-5)


def test_subjects_depend_on_time_and_layer(said):
    here = personalized(said, said.features, block=0)[0, 1]
    layer = personalized(said, said.features, block=3)[0, 1]
    time = personalized(said, said.features, block=0, timesteps=jnp.array([700, 900]))[0, 1]
    assert np.abs(here - layer).max() > 1e-2
    assert np.abs(here - time).max() > 1e-2


@pytest.fixture(scope="module")
def ablated(said):
    """With the switch off: the prompt at the start, and both prompts' parameters there."""
    method = MethodConfig(time_layer_conditioning=False)
    prompter = Variant().prompt(method, len(said.blocks), jnp.float32)
    arguments = said.text, said.features, said.tokens, said.timesteps

    @jax.jit
    def initialize(key):
        start, variables = prompter.init_with_output(key, *arguments)
        return start, variables["params"], said.prompter.init(key, *arguments)["params"]

    start, params, whole = initialize(jax.random.key(3))
    return SimpleNamespace(prompter=prompter, start=start, params=params, whole=whole)


def test_without_time_and_layer_training_starts_at_the_words_too(said, ablated):
    for block in range(len(said.blocks)):
        np.testing.assert_array_equal(ablated.start.for_experts(block, EXPERTS)[1], said.text)


def test_without_time_and_layer_only_what_serves_the_places_is_left_out(ablated):
    kept, whole = flatten_dict(ablated.params), flatten_dict(ablated.whole)
    left_out = {path[:2] for path in whole.keys() - kept.keys()}
    assert left_out == {("conditioning", "project"), ("conditioning", "norm_place")}
    for path, leaf in kept.items():
        np.testing.assert_array_equal(leaf, whole[path], err_msg=str(path))


def test_without_time_and_layer_a_subject_depends_on_neither(said, ablated):
    arguments = said.text, said.features, said.tokens
    params = {"params": speak(ablated.params)}
    embed = jax.jit(lambda times: ablated.prompter.apply(params, *arguments, times).subjects)
    early, late = embed(said.timesteps), embed(said.timesteps + 50)
    np.testing.assert_array_equal(early, late)
    assert early.shape == said.prompt.subjects.shape
    for block in range(1, early.shape[1]):
        np.testing.assert_array_equal(early[:, 0], early[:, block])
    word = said.text[0, 1]
    assert np.abs(early[0, 0, 0] - word).max() > 1e-2


def test_fourier_features_have_unit_norm_and_the_stated_widths():
    """The similarity of two places falls as exp(-(sigma * distance)^2 / 2)."""
    features = fourier_features(jnp.array([100.0, 130.0]), 3, (0.03, 2.0), 20_000)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, rtol=1e-5)
    over_time = np.sum(features[0, 0] * features[1, 0])
    np.testing.assert_allclose(over_time, np.exp(-((0.03 * 30) ** 2) / 2), atol=0.02)
    over_layers = np.sum(features[0, 0] * features[0, 1])
    np.testing.assert_allclose(over_layers, np.exp(-(2.0**2) / 2), atol=0.02)


def test_replacing_leaves_out_absent_subjects():
    text = jnp.zeros((1, 3, 2))
    replaced = replace_tokens(text, jnp.ones((1, 2, 2)), jnp.array([[2, 3]]))
    np.testing.assert_array_equal(replaced[0, :, 0], [0, 0, 1])


def drawn(module, *arguments):
    """Parameters from numpy, and what the module makes of the arguments with them."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)["params"]
    params = jax.tree.map(
        lambda leaf: (random.normal(size=leaf.shape) / leaf.shape[0] ** 0.5).astype(np.float32),
        shapes,
    )
    return params, jax.jit(module.apply)({"params": params}, *arguments)


def in_torch(params):
    """(norm, linear, mlp) of torch, each of the parameters of one layer and its input."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def norm(of, hidden):
        return functional.layer_norm(hidden, hidden.shape[-1:], of["scale"], of["bias"], 1e-5)

    def linear(of, hidden):
        return hidden @ of["kernel"] + of["bias"]

    def mlp(of, hidden):
        return linear(of["fc2"], functional.gelu(linear(of["fc1"], norm(of["norm"], hidden))))

    return jax.tree.map(torch.tensor, params), norm, linear, mlp


def test_fusion_is_fastcomposers():
    """Its PostfuseModule as released, written in torch."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    word, image = (random.normal(size=(2, 3, width)).astype(np.float32) for width in (8, 5))
    params, found = drawn(Fusion(), word, image)
    weights, norm, _, mlp = in_torch(params)
    word, image = torch.tensor(word), torch.tensor(image)
    fused = mlp(weights["mlp1"], torch.cat([word, image], -1)) + word
    fused = mlp(weights["mlp2"], fused) + fused
    np.testing.assert_allclose(found, norm(weights["norm"], fused), rtol=1e-5, atol=1e-5)


def test_conditioning_is_its_formula():
    """The word plus MLP(LN(m) + LN(PE(t, l))), written in torch."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    word, subjects = (random.normal(size=(2, 3, 8)).astype(np.float32) for _ in range(2))
    times = jnp.array([7, 801])
    params, found = drawn(TimeLayerConditioning(4, frequencies=6), word, subjects, times)
    weights, norm, linear, mlp = in_torch(params)
    features = torch.tensor(np.asarray(fourier_features(times, 4, (0.03, 2.0), 6)))
    places = norm(weights["norm_place"], linear(weights["project"], features))
    both = norm(weights["norm_subject"], torch.tensor(subjects))[:, None] + places[:, :, None]
    expected = torch.tensor(word)[:, None] + mlp(weights["mlp"], both)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_frequencies_never_change():
    """Trained weights are of no use with others."""
    draws = np.random.RandomState(0).standard_normal((2, 3))
    np.testing.assert_allclose(draws[:, 0], [1.764052346, 2.240893199])
    phases = 801 * 0.03 * draws[0] + 2 * 2.0 * draws[1]
    expected = np.concatenate([np.sin(phases), np.cos(phases)]) / np.sqrt(3)
    found = fourier_features(jnp.array([801]), 3, (0.03, 2.0), 3)[0, 2]
    np.testing.assert_allclose(found, expected, atol=1e-5)
