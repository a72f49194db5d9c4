"""Low-rank factors that are put together from shards."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax.errors import InputError
from moa_jax.method.variant import Moment
from moa_jax.mixtures.lowrank import Lora
from moa_jax.mixtures.shards import Mos
from tests.mixtures.conftest import attention, moved

MOS = Mos(rank=3, length=6, shards=20, private=1, scale=0.5)


def unet(params, layers=1):
    """A tree in which an attention layer stands several times."""
    return {f"blocks.{number}": {"attn2": params} for number in range(layers)}


def pools(variant, tree):
    return moved({path[0]: leaf for path, leaf in variant.shared(tree, jax.random.key(0)).items()})


def test_shards_are_the_lora_of_the_factors_they_make(pixels, prompt):
    gathered, lora = attention(MOS, cross=True), attention(Lora(rank=3, scale=0.5), cross=True)
    params = moved(gathered.init(jax.random.key(0), pixels, prompt)["params"])
    assert "personalized" not in params  # the experts have no weights of their own
    prior = flatten_dict(unet(params))
    stored = pools(MOS, prior)
    computed = MOS.weights({"unet": unet(params), "variant": stored}, Moment(jnp.zeros(2)))
    factors = {}
    for path, factor, shards, width in MOS.layout(prior):
        vectors = [np.concatenate([stored[factor][one] for one in row])[:width] for row in shards]
        factors[path[-1]] = {"kernel": np.stack(vectors, axis=1 if factor == "down" else 0)}
    assert factors["to_k.down"]["kernel"].shape == (24, 3)
    expected = lora.apply({"params": {**params, "personalized": factors}}, pixels, prompt)
    layer = computed["unet"]["blocks.0"]["attn2"]
    found = gathered.apply({"params": layer}, pixels, prompt)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    still = attention(replace(MOS, scale=1e-9), cross=True)
    assert np.abs(found - still.apply({"params": layer}, pixels, prompt)).max() > 0.01


def test_what_learns_is_shared_by_all_layers_but_the_private_shards(pixels, prompt):
    params = attention(MOS).init(jax.random.key(0), pixels, prompt)["params"]
    few, many = (flatten_dict(unet(params, layers)) for layers in (1, 5))
    alone = replace(MOS, private=0)
    assert [leaf.shape for leaf in alone.shared(many, jax.random.key(0)).values()] == [(20, 6)] * 2
    # Widths of 16 take three shards; a layer has four projections.
    rows = [MOS.shared(tree, jax.random.key(0))[("up",)].shape[0] for tree in (few, many)]
    assert rows == [20 + 4 * 3, 20 + 5 * 4 * 3]
    layout = MOS.layout(many)
    for factor in ("down", "up"):
        used = np.concatenate([part.shards.ravel() for part in layout if part.factor == factor])
        places, often = np.unique(used[used >= 20], return_counts=True)
        assert places.tolist() == list(range(20, 80)) and (often == 1).all()
    tables = [part.shards[:2] for part in layout]
    assert all(len(np.unique(table)) == table.size and table.max() < 20 for table in tables)
    # The two factors of a projection, and two layers, choose other shards.
    assert len({table.tobytes() for table in tables}) == len(tables)
    again = zip(layout, MOS.layout(many), strict=True)
    assert all((one.shards == other.shards).all() for one, other in again)
    other = zip(layout, replace(MOS, seed=1).layout(many), strict=True)
    assert any((one.shards != two.shards).any() for one, two in other)


@pytest.mark.parametrize("options", [{"length": 0}, {"shards": 0}, {"private": 5}, {"rank": 0}])
def test_options_that_make_no_pool_are_refused(options):
    with pytest.raises(InputError, match=f"{[*options][0]}="):
        Mos(**options)
