"""Adapters of domains beside the feed-forward network."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.backbone.transformer import FeedForward
from moa_jax.config import Config, MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.variant import Forward, Observations, name_of
from moa_jax.method.weights import MoaCard, save_moa
from moa_jax.mixtures.domains import MixDa
from tests.mixtures.one_layer import METHOD, dense, move, normal, prompt, softmax

PIXELS = jnp.array(normal(0, 2, 4, 4, 16))
NETWORKS = ("net.0.proj", "net.2")


def network(variant, block=1):
    return variant.feed_forward(METHOD)(block=block)


@pytest.fixture(scope="module")
def params():
    return move(
        network(MixDa(number=2, rank=3)).init(jax.random.key(0), PIXELS, prompt())["params"]
    )


def plain(params):
    own = {name: params[name] for name in NETWORKS}
    return np.asarray(FeedForward().apply({"params": own}, PIXELS))


def test_a_gate_adds_what_the_adapters_know_to_the_network(params):
    known, erf = plain(params), np.vectorize(math.erf)
    added = []
    for number in range(2):
        low = dense(params[f"adapters.{number}.down"], np.asarray(PIXELS))
        gelu = low * (1 + erf(low / 2**0.5)) / 2
        added.append(dense(params[f"adapters.{number}.up"], gelu))
    query = dense(params["router.query"], np.asarray(PIXELS))
    keys = [dense(params["router.key"], value) for value in (known, *added)]
    weights = softmax(np.stack([(query * key).sum(-1) for key in keys], axis=-1) / 4)
    change = weights[..., 1:2] * added[0] + weights[..., 2:] * added[1]
    apply = network(MixDa(number=2, rank=3)).apply
    found, seen = apply({"params": params}, PIXELS, prompt(), mutable=["intermediates"])
    np.testing.assert_allclose(found, known + change, atol=2e-5)
    size = seen["intermediates"]["change"][0]
    np.testing.assert_allclose(size, (change**2).mean(-1), rtol=1e-4, atol=1e-6)

    # The dial of its own block closes the gate; then the network is what it was, to the bit.
    off = prompt(dial=jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(apply({"params": params}, PIXELS, off), known)


def test_the_old_domain_is_the_background():
    change = jnp.array(normal(3, 2, 4, 4) ** 2)
    union = np.zeros((2, 4, 4), np.float32)
    union[0, :, :3], union[1] = 1, 1  # the second picture is all subject
    extra = {"a.ff.change": change, "b.ff.change": 3 * change, "a.attn2.change": 9 * change}
    none = jnp.zeros(2)
    forward = Forward(none, none, none, Observations({}, {}, extra), {}, jnp.array(union))
    terms = MixDa(replay=0.5).losses(forward)
    background = np.asarray(change)[0, :, 3].mean()
    np.testing.assert_allclose(terms["replay"], 0.5 * 2 * background / 2, rtol=1e-4)


def test_the_second_stage_keeps_the_adapters_of_the_first(tmp_path):
    first, folders, written = MixDa(number=1, rank=3), [], []
    for seed in (10, 20):
        made = network(first).init(jax.random.key(seed), PIXELS, prompt())["params"]
        own = flatten_dict(move(made, seed))
        written.append({path: leaf for path, leaf in own.items() if path[0] not in NETWORKS})
        folders.append(str(tmp_path / f"run{seed}"))
        tree = {("unet", "mid", "ff", *path): leaf for path, leaf in written[-1].items()}
        card = MoaCard(Config(method=MethodConfig(mixture=name_of(first))), Identity("", "", {}), 1)
        save_moa(folders[-1], unflatten_dict(tree), card)
    second = MixDa(number=2, rank=3, runs=tuple(folders))
    shapes = jax.eval_shape(network(second).init, jax.random.key(0), PIXELS, prompt())["params"]
    added = {
        ("mid", "ff", *path): leaf
        for path, leaf in flatten_dict(shapes).items()
        if path[0] not in NETWORKS
    }
    found = second.start(added, {})
    for number, own in enumerate(written):
        for side in ("down", "up"):
            path = ("mid", "ff", f"adapters.{number}.{side}", "kernel")
            np.testing.assert_array_equal(found[path], own[f"adapters.0.{side}", "kernel"])
    assert len(found) == 4
    learned = {path[2] for path in added if second.learns(".".join(("unet", *path)))}
    assert learned == {"router.query", "router.key"}
    assert all(first.learns(".".join(("unet", *path))) for path in added)
    with pytest.raises(InputError, match=r"domains:MixDa, rank=2, number=1"):
        MixDa(number=2, rank=2, runs=tuple(folders)).start(added, {})


@pytest.mark.parametrize(
    "options", [{"number": 0}, {"rank": 0}, {"runs": ("a", "b")}, {"replay": -1.0}]
)
def test_domains_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=f"{[*options][0]}="):
        MixDa(**options)
