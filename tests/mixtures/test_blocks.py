"""Blocks of the picture that heads choose for their queries."""

from functools import partial

import jax
import numpy as np
import pytest

from moa_jax.backbone.attention import Attention
from moa_jax.errors import InputError
from moa_jax.method.variant import resolve
from moa_jax.mixtures.blocks import BlocksExpert, partition
from tests.mixtures.one_layer import HIDDEN, SIZES, dense, move, normal, run, softmax, start


def kept_pairs(gate, labels, threshold):
    """Take pairs one by one, head by head: own blocks first, and then the most similar ones."""
    kept = np.zeros(gate.shape, bool)
    for head in np.ndindex(gate.shape[:2]):
        similar = (gate[head] - gate[head].min()) / (gate[head].max() - gate[head].min())
        kept[head][np.arange(len(labels)), labels] = True
        rest = [pair for pair in np.ndindex(similar.shape) if not kept[head][pair]]
        for pair in sorted(rest, key=lambda pair: -similar[pair]):
            if similar[kept[head]].sum() >= threshold * similar.sum():
                break
            kept[head][pair] = True
    return kept


def attend_over_blocks(params, hidden, labels, threshold):
    """Write the layer down, score by score; return its output and the share of pairs it sees."""
    batch, rows, columns, width = hidden.shape
    pixels = hidden.reshape(batch, -1, width)
    q, k, v = (
        dense(params[name], pixels).reshape(batch, -1, 2, 8) for name in ("to_q", "to_k", "to_v")
    )
    means = np.stack([k[:, labels == block].mean(1) for block in range(labels.max() + 1)], 1)
    kept = kept_pairs(np.einsum("blnd,bcnd->bnlc", q, means), labels, threshold)
    scores = np.einsum("blnd,bsnd->bnls", q, k) / np.sqrt(8)
    scores = np.where(kept[..., labels], scores, -np.inf)
    mixed = np.einsum("bnls,bsnd->blnd", softmax(scores), v).reshape(hidden.shape)
    return dense(params["to_out.0"], mixed), kept[..., labels].mean((1, 2, 3))


RUNS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
TILES = [0, 0, 1, 0, 0, 1, 2, 2, 3, 2, 2, 3]  # of four rows and three columns


@pytest.mark.parametrize(
    ("block", "labels", "threshold"),
    [(0, RUNS, 0.3), (1, TILES, 0.3), (1, TILES, 0.6), (3, TILES, 0.9)],
)
def test_a_head_keeps_its_most_similar_blocks(block, labels, threshold):
    layer, hidden = (
        BlocksExpert(**SIZES, block=block, threshold=threshold, side=2),
        HIDDEN[:, :, 1:],
    )
    params = move(start(layer, None, hidden))
    expected, density = attend_over_blocks(params, hidden, np.array(labels), threshold)
    output, sown = run(layer, params, None, hidden)
    np.testing.assert_allclose(output, expected, atol=2e-5)
    np.testing.assert_allclose(sown["density"][0], density, rtol=1e-6)
    assert density.min() > 0.25 and density.max() < 1


def test_the_share_of_what_is_seen_grows_to_plain_attention():
    hidden, shares = normal(5, 2, 6, 5, 16), []
    made = partial(BlocksExpert, **SIZES, block=1, side=3)
    params = move(start(made(), None, hidden))
    for threshold in (0.05, 0.4, 0.8):
        _, sown = run(made(threshold=threshold), params, None, hidden)
        shares.append(sown["density"][0].mean())
    assert shares == sorted(set(shares)) and shares[-1] < 1
    found, plain = (
        jax.jit(layer.apply)({"params": params}, hidden, None)
        for layer in (made(threshold=1.0), Attention(**SIZES))
    )
    np.testing.assert_array_equal(found, plain)


def test_blocks_cover_maps_of_any_size():
    assert partition(0, 3, 3, 2).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert partition(1, 3, 3, 2).reshape(3, 3).tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3]]
    for block in (0, 1):
        assert partition(block, 2, 2, 4).tolist() == [0, 1, 2, 3]  # no more blocks than pixels
        assert partition(block, 1, 1, 4).tolist() == [0]


@pytest.mark.parametrize("option", ["threshold=0.0", "threshold=1.5", "side=1"])
def test_blocks_without_a_meaning_are_refused(option):
    with pytest.raises(InputError, match=option):
        resolve(f"moa_jax.mixtures.blocks:BlockAttention({option})")
