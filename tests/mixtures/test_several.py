"""Several finished adapters, mixed inside one expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.config import Config, MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.sparse import Sparse
from moa_jax.method.variant import Observations
from moa_jax.method.weights import MoaCard, save_moa
from moa_jax.mixtures.lowrank import Lora, Mora
from moa_jax.mixtures.several import XLora
from tests.mixtures.one_layer import (
    HIDDEN,
    PROJECTIONS,
    attend,
    dense,
    layer_of,
    mix_values,
    move,
    normal,
    prompt,
    run,
    softmax,
    start,
)

QUERIES = HIDDEN.reshape(2, 16, 16)
THREE = XLora(number=3, rank=2, scale=0.5)
NO_ONE = Identity("none", "none", {})


def adapter(params, name, number):
    """The product of one adapter's factors, of rank 2."""
    ranks = slice(2 * number, 2 * number + 2)
    down, up = (params["personalized"][f"{name}.{each}"]["kernel"] for each in ("down", "up"))
    return down[:, ranks] @ up[ranks]


def mixed(params, scalings, words, cross):
    """What an attention layer computes with every adapter weighed at every pixel."""
    source = words if cross else QUERIES
    told = scalings.mean(1, keepdims=True) if cross else scalings

    def project(source, name, weights):
        changes = [source @ adapter(params, name, number) for number in range(3)]
        change = sum(weights[..., number, None] * each for number, each in enumerate(changes))
        return dense(params[name], source) + 0.5 * change

    query = project(QUERIES, "to_q", scalings)
    key, value = (project(source, name, told) for name in ("to_k", "to_v"))
    return project(mix_values(query, key, value), "to_out.0", scalings).reshape(HIDDEN.shape)


def check(layer, params, said, personalized):
    """Compare a layer with its mixture of the prior and what the other expert should give."""
    both, seen = run(layer, params, said)
    weights = seen["routing"][0]
    prior = attend(params, said.text, cross=layer.cross)
    expected = weights[..., :1] * prior + weights[..., 1:] * personalized
    np.testing.assert_allclose(both, expected, atol=3e-5)


def replaced(said, block):
    return np.asarray(said.for_experts(block, ("personalized",))[1])


@pytest.mark.parametrize("cross", [False, True])
def test_scalings_mix_adapters_inside_every_projection(cross):
    said, layer = prompt(), layer_of(THREE, cross, block=3)
    params = move(start(layer, said))
    every = softmax(normal(5, 2, 4, 4, 14, 3))  # of the layers of seven blocks
    own = every[:, :, :, 6 + cross].reshape(2, 16, 3)
    given = said._replace(shared={"scalings": jnp.array(every)})
    expected = mixed(params, own, replaced(said, 3), cross)
    check(layer, params, given, expected)

    # With all weight on one adapter, it is the model of that adapter.
    one = np.broadcast_to(np.eye(3, dtype=np.float32)[1], every.shape)
    given = said._replace(shared={"scalings": jnp.array(one)})
    merged = {**params}
    for name in PROJECTIONS:
        kernel = params[name]["kernel"] + 0.5 * adapter(params, name, 1)
        merged[name] = {**params[name], "kernel": kernel}
    expected = attend(merged, replaced(said, 3), cross=cross)
    check(layer, params, given, expected)


def test_the_largest_scalings_stay_and_coarse_maps_are_resized():
    said, layer = prompt(), layer_of(XLora(number=3, rank=2, scale=0.5, keep=2), cross=False)
    params = move(start(layer, said))
    coarse = softmax(normal(5, 2, 1, 1, 14, 3))
    own = np.broadcast_to(coarse[:, :, :, 0], (2, 4, 4, 3)).reshape(2, 16, 3)
    own = np.where(own == own.min(-1, keepdims=True), 0, own)
    given = said._replace(shared={"scalings": jnp.array(coarse)})
    expected = mixed(params, own, None, False)
    check(layer, params, given, expected)


def test_the_first_pass_is_the_priors_and_its_last_layer_gives_the_scalings():
    said = prompt()
    layer = layer_of(XLora(number=3, rank=2, temperature=0.5), block=6)  # the last of seven
    params = move(start(layer, said))
    output, seen = run(layer, params, said)
    np.testing.assert_allclose(output, attend(params, said.text), atol=1e-6)
    logits = (HIDDEN @ params["router.head"]["kernel"]).reshape(2, 4, 4, 14, 3)
    np.testing.assert_allclose(seen["scalings"][0], softmax(2 * logits), atol=1e-5)
    assert [*seen] == ["scalings"]
    first = layer_of(THREE, block=0)  # another layer has no head
    _, seen = first.apply({"params": params}, jnp.array(HIDDEN), said, mutable=["intermediates"])
    assert not seen

    contexts = []

    def passes(context):
        contexts.append(context)
        extra = {"up.attn2.scalings": len(contexts), "up.attn2.other": 9}
        return jnp.full(1, len(contexts)), Observations({}, {}, extra)

    prediction, _ = THREE.predict(passes, said._replace(shared={"variant": 1}))
    assert prediction == 2 and [each.shared for each in contexts] == [None, {"scalings": 1}]


def written(folder, lora, seed):
    """A finished run of one attention layer."""
    layer = layer_of(lora)
    params = flatten_dict(start(layer, prompt()))
    trained = {
        ("unet", "mid", "attn2", *path): normal(seed + place, *leaf.shape)
        for place, (path, leaf) in enumerate(params.items())
        if path[0] == "personalized"
    }
    module = f"{type(lora).__module__}:{type(lora).__name__}"
    options = f"rank={lora.rank}, scale={lora.scale}" + (", keep=2" if "Mora" in module else "")
    method = MethodConfig(mixture=f"{module}({options})")
    save_moa(folder, unflatten_dict(trained), MoaCard(Config(method=method), NO_ONE, 1))
    return {path[3:]: leaf for path, leaf in trained.items()}


def test_finished_runs_are_put_side_by_side_and_stay_as_they_are(tmp_path):
    folders = [str(tmp_path / name) for name in ("men", "kids")]
    runs = [written(folders[0], Lora(2, 0.5), 10), written(folders[1], Lora(2, 2.0), 30)]
    variant = XLora(number=2, rank=2, scale=0.5, runs=tuple(folders))
    shapes = flatten_dict(jax.eval_shape(lambda: start(layer_of(variant), prompt())))
    added = {("mid", "attn2", *path): leaf for path, leaf in shapes.items()}
    found = variant.start(added, {})
    assert len(found) == 8 and all(found[path].shape == added[path].shape for path in found)
    kernels = {path[3:]: leaf for path, leaf in found.items()}
    for name in PROJECTIONS:
        down, up = (kernels[f"{name}.{each}", "kernel"] for each in ("down", "up"))
        for number, (own, scale) in enumerate(zip(runs, (0.5, 2.0), strict=True)):
            first, second = (own["personalized", f"{name}.{each}", "kernel"] for each in PAIR)
            ranks = slice(2 * number, 2 * number + 2)
            change = scale * first @ second
            np.testing.assert_allclose(0.5 * down[:, ranks] @ up[ranks], change, rtol=1e-5)

    paths = [".".join(("unet", *path)) for path in added]
    fixed = {path for path in paths if not variant.learns(path)}
    assert fixed == {".".join(("unet", *path)) for path in found}
    assert all(XLora().learns(path) for path in paths)

    with pytest.raises(InputError, match=r"men'.*Lora, rank=3"):
        XLora(number=2, rank=3, runs=tuple(folders)).start(added, {})
    other = str(tmp_path / "other")
    written(other, Mora(rank=2, keep=2), 50)
    with pytest.raises(InputError, match="name a run of moa_jax.mixtures.lowrank:Lora"):
        XLora(number=1, rank=2, runs=(other,)).start(added, {})


PAIR = ("down", "up")


def test_some_of_the_pixels_alone_have_no_scalings():
    said, layer = prompt(), layer_of(THREE)
    params = start(layer, said)
    scalings = {"scalings": jnp.ones((2, 4, 4, 14, 3))}
    with pytest.raises(InputError, match=r"capacity=0.5: .*capacity=1"):
        run(layer, params, said._replace(shared=scalings, sparse=Sparse(capacity=0.5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number=0"),
        ({"rank": 0}, "rank=0"),
        ({"runs": ("a",)}, "runs=.*number=3 folders"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"keep": 4}, "keep=4 .* 1 to number=3"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        XLora(**options)
