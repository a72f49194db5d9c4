"""The losses against FastComposer's published ones, on literals, and by what they must prefer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.method.losses import (
    masked_denoising_loss,
    mean_routing,
    object_loss,
    router_loss,
    router_loss_by_layer,
    union_mask,
)

# One picture, two heads, a 2x2 map, the columns of two subjects' tokens. Rows are pixels.
HEAD_1 = [[0.6, 0.3], [0.5, 0.3], [0.1, 0.2], [0.4, 0.2]]
HEAD_2 = [[0.25, 0.25], [0.3, 0.4], [0.2, 0.6], [0.8, 0.1]]
ATTENTION = jnp.array([HEAD_1, HEAD_2]).reshape(1, 2, 2, 2, 2)
MASKS = jnp.array([[[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]])


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        # Subject 1: head 1 (0.1+0.4)/2 - (0.6+0.5)/2 = -0.3; head 2 (0.2+0.8)/2 - 0.275 = 0.225.
        # Subject 2: head 1 (0.3+0.3+0.2)/3 - 0.2 = 0.0667; head 2 (0.25+0.4+0.6)/3 - 0.1 = 0.3167.
        # Mean over subjects, then heads: (-0.11667 + 0.27083) / 2. FastComposer's
        # get_object_localization_loss_for_one_layer (commit b9304a2) prints 0.0770832.
        ((True, True), 0.07708321511745453),
        # Subject 1 alone: (-0.3 + 0.225) / 2; FastComposer's code prints -0.0374995.
        ((True, False), -0.03749945014715195),
    ],
)
def test_object_loss_is_fastcomposers(present, expected):
    loss = object_loss([ATTENTION], MASKS, jnp.array([present]))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_object_loss_resizes_masks_and_averages_layers_as_fastcomposer():
    """Two layers, the second with its heads swapped and halved; masks of 4x4 on a 2x2 map.

    FastComposer's get_object_localization_loss (commit b9304a2) on these inputs prints 0.0626214.
    """
    masks = np.zeros((1, 2, 4, 4), np.float32)
    masks[0, 0, :2, :] = masks[0, 0, 2, 0] = masks[0, 1, 3, 3] = 1
    layers = [ATTENTION, ATTENTION[:, ::-1] * 0.5]
    loss = object_loss(layers, jnp.array(masks), jnp.array([[True, True]]))
    np.testing.assert_allclose(loss, 0.06262143701314926, rtol=1e-5)


def test_object_loss_falls_when_attention_moves_to_the_subject():
    on_subject = jnp.zeros((1, 1, 2, 2, 2)).at[0, 0, 0, :, 0].set(1).at[0, 0, 1, 1, 1].set(1)
    present = jnp.array([[True, True]])
    np.testing.assert_allclose(object_loss([on_subject], MASKS, present), -1, atol=2e-5)
    assert object_loss([1 - on_subject], MASKS, present) > 0.99


def test_object_loss_ignores_absent_subjects_and_empty_pictures():
    nobody = jnp.array([[False, False]])
    assert object_loss([ATTENTION], MASKS, nobody) == 0
    gradient = jax.grad(lambda a: object_loss([a], MASKS, jnp.array([[True, False]])))(ATTENTION)
    assert np.all(gradient[..., 1] == 0)
    assert np.all(gradient[..., 0] != 0)


PREDICTION = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
TARGET = jnp.array([[0.0, 0.0], [1.0, 1.0]]).reshape(1, 2, 2, 1)
UNION = jnp.array([[[1.0, 0.0], [0.5, 1.0]]])
TWO_SIZES = ((4, 3), (2, 2))


@pytest.mark.parametrize(
    ("masked", "expected"),
    [
        # Errors 1, 2, 2, 3 times the mask 1, 0, 1/2, 1: (1 + 0 + 1 + 9) / 4. FastComposer's lines
        # (pred * mask, target * mask, mse_loss) print 2.75, without the mask 4.5 = 18 / 4.
        (True, 2.75),
        (False, 4.5),
    ],
)
def test_masked_loss_is_fastcomposers(masked, expected):
    loss = masked_denoising_loss(PREDICTION, TARGET, UNION, jnp.array([masked]))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_masking_is_drawn_for_each_picture():
    loss = masked_denoising_loss(
        jnp.concatenate([PREDICTION, PREDICTION]),
        jnp.concatenate([TARGET, TARGET]),
        jnp.concatenate([UNION, UNION]),
        jnp.array([True, False]),
    )
    np.testing.assert_allclose(loss, (2.75 + 4.5) / 2, rtol=1e-6)


def test_union_mask_is_fastcomposers():
    """Subjects of 2x2 and 2x3 pixels on 4x4; FastComposer's lines print [[1, 0], [0.5, 1]]."""
    masks = np.zeros((1, 2, 4, 4), np.float32)
    masks[0, 0, :2, :2] = masks[0, 1, 2:, 1:] = 1
    np.testing.assert_allclose(union_mask(jnp.array(masks), (2, 2)), UNION, atol=1e-6)


def test_masks_resize_as_pytorch_does():
    torch = pytest.importorskip("torch")
    masks = np.random.default_rng(0).random((2, 1, 33, 48)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.tensor(masks), (4, 6), mode="bilinear")
    np.testing.assert_allclose(union_mask(jnp.array(masks), (4, 6)), expected[:, 0], atol=1e-5)


def test_subjects_that_overlap_count_once():
    masks = jnp.zeros((1, 2, 4, 4)).at[0, 0, :2, :].set(1).at[0, 1, :, :2].set(1)
    np.testing.assert_array_equal(union_mask(masks, (2, 2)), [[[1, 1], [1, 0]]])


def test_routing_is_resized_as_pytorch_does():
    torch = pytest.importorskip("torch")
    maps = [np.random.default_rng(0).random((2, *size)).astype(np.float32) for size in TWO_SIZES]
    sizes = {"size": (8, 6), "mode": "bilinear"}
    expected = [torch.nn.functional.interpolate(torch.tensor(m)[:, None], **sizes) for m in maps]
    mean = mean_routing([jnp.array(layer) for layer in maps], (8, 6))
    np.testing.assert_allclose(mean, sum(expected)[:, 0] / 2, atol=1e-6)


def test_router_loss_punishes_only_the_background():
    mask = jnp.zeros((1, 4, 4)).at[:, :, 2:].set(1)
    assert router_loss(mask * 0 + 1, mask) == 0
    assert router_loss(1 - mask, mask) == 0
    # Half of the pixels are background, where the personalized expert has weight 0.6.
    np.testing.assert_allclose(router_loss(jnp.full((1, 4, 4), 0.4), mask), 0.5 * 0.36, rtol=1e-6)


def test_router_loss_sees_the_mean_over_layers_of_other_sizes():
    coarse = jnp.full((1, 2, 3), 0.5)
    fine = jnp.ones((1, 4, 6))
    mean = mean_routing([coarse, fine], (4, 6))
    np.testing.assert_allclose(mean, np.full((1, 4, 6), 0.75), rtol=1e-6)
    gradients = jax.grad(
        lambda maps: router_loss(mean_routing(maps, (4, 6)), jnp.zeros((1, 4, 6)))
    )([coarse, fine])
    assert all(np.all(gradient < 0) for gradient in gradients)


LEFT = jnp.zeros((1, 8, 8)).at[:, :, :4].set(1)  # a subject on the left half
SUBJECTS = ((8, 4), (4, 1))  # sides of a layer, and the columns that it fills there


def test_the_layers_router_loss_is_zero_with_the_prior_on_the_background():
    """Whatever the experts do where there is nothing but the subject, in a layer of any size."""
    maps = [jnp.ones((1, side, side)).at[:, :, :columns].set(0.3) for side, columns in SUBJECTS]
    assert router_loss_by_layer(maps, LEFT) < 1e-12
    assert router_loss_by_layer([1 - layer for layer in maps], LEFT) > 0.9


def test_the_layers_router_loss_does_not_see_the_subject():
    layer = jnp.array(np.random.default_rng(0).random((1, 8, 8)), jnp.float32)
    gradient = jax.grad(lambda prior: router_loss_by_layer([prior], LEFT))(layer)
    assert np.all(gradient[:, :, :4] == 0) and np.all(gradient[:, :, 4:] < 0)


@pytest.mark.parametrize("side", [2, 8])
@pytest.mark.parametrize("columns", [0, 3, 7])
def test_the_layers_router_loss_does_not_see_how_large_the_subject_is(side, columns):
    mask = jnp.zeros((1, 8, 8)).at[:, :, :columns].set(1)
    loss = router_loss_by_layer([jnp.full((1, side, side), 0.4)], mask)
    np.testing.assert_allclose(loss, 0.36, rtol=1e-3)


def test_the_layers_router_loss_is_the_mean_over_layers_and_pictures():
    """Of 1/4, 0 and 1, 9/16; where layers make up for each other their mean loses less."""
    shares = jnp.array([[0.5, 1.0], [0.0, 0.25]])  # of the prior, by layer and picture
    maps = [jnp.broadcast_to(each[:, None, None], (2, 8, 8)) for each in shares]
    mask = jnp.concatenate([LEFT, LEFT * 0])
    expected = (0.25 + 0 + 1 + 0.5625) / 4
    np.testing.assert_allclose(router_loss_by_layer(maps, mask), expected, rtol=1e-5)
    apart = [jnp.ones((1, 8, 8)), jnp.zeros((1, 8, 8))]
    np.testing.assert_allclose(router_loss_by_layer(apart, LEFT), 0.5, rtol=1e-5)
    np.testing.assert_allclose(router_loss(mean_routing(apart, (8, 8)), LEFT), 0.125, rtol=1e-5)


def test_a_picture_without_background_has_no_layers_router_loss():
    loss, gradient = jax.value_and_grad(router_loss_by_layer)([LEFT], jnp.ones((1, 8, 8)))
    assert loss == 0 and np.all(gradient[0] == 0)


def test_a_wide_picture_keeps_its_rows_and_columns():
    """Masks of 48x96 pixels, with the subject on the left half, and latents of 6x12, by hand."""
    masks = jnp.zeros((1, 1, 48, 96)).at[..., :48].set(1)
    union = union_mask(masks, (6, 12))
    expected = np.zeros((1, 6, 12), np.float32)
    expected[:, :, :6] = 1
    np.testing.assert_array_equal(union, expected)
    wrong = jnp.ones((1, 6, 12)).at[:, :4, 6:].set(0)  # 24 of 72 pixels leave the prior
    assert router_loss(mean_routing([wrong], (6, 12)), union) == pytest.approx(24 / 72)
    assert router_loss_by_layer([wrong], union) == pytest.approx(24 / 36, abs=1e-4)
    # The word looks at the first column, 6 of the 36 pixels of its subject, or at the last.
    present = jnp.ones((1, 1), bool)
    first, last = (jnp.zeros((1, 1, 6, 12, 1)).at[:, :, :, column].set(1) for column in (0, -1))
    assert object_loss([first], masks, present) == pytest.approx(-6 / 36, abs=1e-4)
    assert object_loss([last], masks, present) == pytest.approx(6 / 36, abs=1e-4)
    coarse = jnp.zeros((1, 1, 3, 6, 1)).at[:, :, :, 0].set(1)  # 3 of the 9
    expected = -(6 / 36 + 3 / 9) / 2
    assert object_loss([first, coarse], masks, present) == pytest.approx(expected, abs=1e-4)
