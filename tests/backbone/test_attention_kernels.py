"""Every implementation of attention against float64 NumPy, forward and backward, on any shape."""

import importlib.util
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moa_jax.backbone import attention_kernels as attend
from moa_jax.backbone.attention_kernels import choose_attend, kernel_of, select
from moa_jax.backbone.unet import UNet, UNetConfig
from moa_jax.errors import InputError

SPLASH, FLASH = (partial(each, interpret=True) for each in (attend.splash, attend.flash))
FUNCTIONS = {"xla": attend.xla, "blocked": attend.blocked, "looped": attend.looped}
FUNCTIONS |= {"splash": SPLASH, "flash": FLASH}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
AXES = ("data", "fsdp", "tensor")
ONE_LEVEL = {
    "block_out_channels": (16,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}  # of a U-Net


@pytest.fixture
def small_blocks(monkeypatch):
    """Let `blocked` and `looped` hold so few scores that small shapes have many blocks."""
    monkeypatch.setattr(attend, "SCORES", 1500)
    monkeypatch.setattr(attend, "LOOPED_QUERIES", 50)


def drawn(batch, length, context, heads, width, dtype=jnp.float32):
    """Query, key, value and the gradient of the output."""
    random = np.random.default_rng(length)
    sides = (length, context, context, length)
    return [
        jnp.asarray(random.standard_normal((batch, side, heads, width), np.float32), dtype)
        for side in sides
    ]


def forward_backward(function, query, key, value, gradient):
    mixed, back = jax.vjp(function, query, key, value)
    return mixed, *back(gradient)


def reference(query, key, value, gradient):
    """The output and the gradients of query, key and value, by hand in float64."""
    query, key, value, gradient = (
        np.asarray(array, np.float64) for array in (query, key, value, gradient)
    )
    scale = query.shape[-1] ** -0.5
    logits = scale * np.einsum("blnd,bsnd->bnls", query, key)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    moved = np.einsum("blnd,bsnd->bnls", gradient, value)
    moved = scale * weights * (moved - np.sum(moved * weights, axis=-1, keepdims=True))
    return (
        np.einsum("bnls,bsnd->blnd", weights, value),
        np.einsum("bnls,bsnd->blnd", moved, key),
        np.einsum("bnls,blnd->bsnd", moved, query),
        np.einsum("bnls,blnd->bsnd", weights, gradient),
    )


@every_function
@pytest.mark.parametrize(
    "shape",
    [(2, 131, 131, 2, 40), (1, 100, 77, 1, 80), (1, 9, 140, 1, 160)],
    ids=["odd", "cross", "long context"],
)
def test_output_and_gradients_are_those_of_float64(function, shape, small_blocks):
    arrays = drawn(*shape)
    found = jax.jit(partial(forward_backward, function))(*arrays)
    for ours, exact in zip(found, reference(*arrays), strict=True):
        np.testing.assert_allclose(ours, exact, atol=3e-6)


@every_function
def test_half_precision_rounds_its_inputs_and_outputs_only(function, small_blocks):
    """bfloat16 has 8 bits; blocks whose gradients were summed in it would lose more."""
    arrays = drawn(1, 131, 131, 1, 40, jnp.bfloat16)
    found = jax.jit(partial(forward_backward, function))(*arrays)
    for ours, exact in zip(found, reference(*arrays), strict=True):
        assert ours.dtype == jnp.bfloat16
        error = np.abs(np.asarray(ours, np.float64) - exact).max()
        assert error < 2**-7 * np.abs(exact).max()


@pytest.mark.parametrize("length", [1, 20, 1000])
def test_blocks_of_any_length_put_every_query_in_its_place(length, small_blocks):
    arrays = drawn(2, length, 77, 1, 8)
    for function in (attend.blocked, attend.looped):
        found = jax.jit(function)(*arrays[:3])
        np.testing.assert_allclose(found, reference(*arrays)[0], atol=3e-6)


@pytest.mark.parametrize("backward", [False, True])
def test_blocks_never_hold_the_scores(backward):
    """By the compiler's own count: less than a quarter of the scores of 4096 x 4096."""
    length, heads = 4096, 2
    arrays = [jax.ShapeDtypeStruct((1, length, heads, 40), jnp.float32)] * 4
    scores = heads * length**2 * 4

    def held(function):
        program = partial(forward_backward, function) if backward else function
        compiled = jax.jit(program).lower(*arrays[: 4 if backward else 3]).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert held(attend.blocked) < scores / 4
    assert held(attend.looped) < scores / 4
    assert held(attend.xla) >= scores


@pytest.mark.parametrize(
    "function", [SPLASH, FLASH, attend.looped], ids=["splash", "flash", "looped"]
)
@pytest.mark.parametrize(("batch", "heads"), [(4, 2), (1, 3)], ids=["split", "whole"])
def test_a_kernel_on_a_mesh_is_the_kernel(function, batch, heads):
    """Batch and heads split over 8 devices; both whole where the axes do not divide them."""
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 2, 2), AXES)
    arrays = drawn(batch, 40, 40, heads, 40)
    found = jax.jit(partial(forward_backward, partial(function, mesh=mesh)))(*arrays)
    split = PartitionSpec(("data", "fsdp"), None, "tensor")
    assert found[0].sharding.spec == (split if batch == 4 else PartitionSpec())
    for ours, exact in zip(found, reference(*arrays), strict=True):
        np.testing.assert_allclose(ours, exact, atol=3e-6)


def test_blocked_on_a_mesh_moves_nothing(small_blocks):
    """The compiler splits every block as the batch and the heads are split."""
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 2, 2), AXES)
    place = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
    arrays = jax.device_put(drawn(4, 100, 77, 2, 8), place)
    compiled = jax.jit(partial(forward_backward, attend.blocked)).lower(*arrays).compile()
    program = compiled.as_text()
    assert not any(word in program for word in ("all-gather", "all-to-all", "all-reduce"))
    for ours, exact in zip(compiled(*arrays), reference(*arrays), strict=True):
        np.testing.assert_allclose(ours, exact, atol=3e-6)


@pytest.mark.parametrize(
    ("name", "kernel", "length", "context", "width", "dtype", "expected"),
    [
        ("auto", None, 4096, 4096, 40, "float32", "blocked"),
        ("auto", None, 1024, 1024, 80, "float32", "blocked"),
        ("auto", None, 256, 256, 160, "float32", "xla"),
        ("auto", None, 4096, 77, 40, "float32", "xla"),
        ("auto", "looped", 4096, 4096, 40, "float32", "looped"),
        ("auto", "looped", 256, 256, 160, "bfloat16", "looped"),
        ("auto", "looped", 256, 77, 160, "float32", "xla"),
        ("looped", "looped", 64, 64, 160, "float32", "looped"),
        ("auto", "flash", 4096, 4096, 40, "bfloat16", "flash"),
        ("auto", "flash", 1024, 1024, 80, "bfloat16", "flash"),
        ("auto", "flash", 257, 257, 64, "bfloat16", "flash"),
        ("auto", "flash", 256, 256, 160, "bfloat16", "flash"),
        ("auto", "flash", 64, 64, 160, "bfloat16", "xla"),
        ("auto", "flash", 4096, 77, 40, "bfloat16", "flash"),
        ("auto", "flash", 4096, 1, 40, "bfloat16", "xla"),
        ("auto", "flash", 4096, 4096, 512, "bfloat16", "flash"),
        ("auto", "flash", 4096, 4096, 1024, "bfloat16", "blocked"),
        ("auto", "cudnn", 4096, 4096, 40, "bfloat16", "cudnn"),
        ("auto", "cudnn", 4096, 77, 40, "float16", "cudnn"),
        ("auto", "cudnn", 256, 256, 160, "bfloat16", "xla"),
        ("auto", "cudnn", 4096, 4096, 512, "bfloat16", "blocked"),
        ("auto", "cudnn", 4096, 4096, 40, "float32", "blocked"),
        ("auto", "cudnn", 4096, 4096, 44, "bfloat16", "blocked"),
        ("auto", "cudnn", 1, 1, 40, "bfloat16", "xla"),
        ("xla", "flash", 4096, 4096, 40, "bfloat16", "xla"),
        ("blocked", "cudnn", 64, 64, 160, "bfloat16", "blocked"),
        ("flash", "flash", 64, 77, 160, "bfloat16", "flash"),
        ("splash", "flash", 64, 77, 160, "bfloat16", "splash"),
        ("cudnn", "cudnn", 1024, 1024, 160, "bfloat16", "blocked"),
    ],
)
def test_the_shape_chooses(name, kernel, length, context, width, dtype, expected):
    assert select(name, kernel, length, context, width, jnp.dtype(dtype)) == expected


def test_the_chosen_function_attends_by_what_was_selected(monkeypatch):
    calls = []

    def looped(query, key, value, mesh):
        calls.append(query.shape[1])
        return query

    monkeypatch.setattr(attend, "looped", looped)
    chosen = choose_attend("auto", "cpu")
    for length in (16, 1024):
        jax.eval_shape(chosen, *drawn(1, length, length, 1, 8)[:3])
    assert calls == [1024]


@pytest.mark.parametrize(
    ("name", "platform", "message"),
    [
        ("splash", "cpu", "attention='splash' needs a TPU.*choose auto, xla or blocked"),
        ("splash", "gpu", "'splash' needs a TPU"),
        ("cudnn", "tpu", "'cudnn' needs an NVIDIA GPU.*choose auto"),
        ("cudnn", "cpu", "'cudnn' needs an NVIDIA GPU"),
        ("flash", "cpu", "'flash' needs a TPU"),
        ("looped", "gpu", "attention='looped' needs a CPU"),
        ("own", "cpu", "attention='own': must be one of auto, xla, blocked, looped, flash, sp"),
    ],
)
def test_what_cannot_run_here_is_refused_with_the_remedy(name, platform, message):
    with pytest.raises(InputError, match=message):
        choose_attend(name, platform)


@pytest.mark.parametrize(
    ("platform", "version", "capability", "expected"),
    [
        ("cpu", (0, 10, 1), None, "looped"),
        ("tpu", (0, 10, 1), None, "flash"),
        ("tpu", (0, 7, 2), None, None),
        ("gpu", (0, 10, 1), "9.0", "cudnn"),
        ("gpu", (0, 10, 1), "12.0", "cudnn"),
        ("gpu", (0, 10, 1), "7.5", None),
        ("gpu", (0, 10, 1), "gfx942", None),
    ],
)
def test_the_devices_say_which_kernel_runs(monkeypatch, platform, version, capability, expected):
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(jax, "__version_info__", version)
    assert kernel_of(platform) == expected


@pytest.mark.slow
def test_a_network_is_the_same_by_every_implementation(small_blocks):
    """Prediction and gradients of a U-Net of one level, its cross-attention included."""
    config = UNetConfig.from_dict(ONE_LEVEL)
    keys = jax.random.split(jax.random.key(0), 3)
    latents = jax.random.normal(keys[0], (2, 12, 11, 4))
    text, timesteps = jax.random.normal(keys[1], (2, 77, 24)), jnp.array([3, 900])
    params = jax.jit(UNet(config).init)(keys[2], latents, timesteps, text)

    def results(function):
        unet = UNet(config, partial(UNet.attention, attend=function))

        def loss(params):
            return jnp.sum(unet.apply(params, latents, timesteps, text) ** 2)

        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params))

    expected = results(attend.xla)
    for function in (attend.blocked, attend.looped, SPLASH, FLASH):
        for ours, theirs in zip(results(function), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max() + 1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no compiler for TPUs: pip install libtpu"
)
@pytest.mark.parametrize(
    "kind",
    [
        "v5e:2x2",
        pytest.param("v6e:2x2", marks=pytest.mark.slow),
        pytest.param("v5p:2x2x1", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("name", "kernels"), [("flash", 2), ("splash", 3)])
def test_a_kernel_compiles_for_tpus(name, kernels, kind, monkeypatch):
    """Forward and backward on a mesh of 4 chips: a few kernels a layer, and nothing is moved."""
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    devices = topologies.get_topology_desc(kind, platform="tpu").devices
    mesh = Mesh(np.array(devices).reshape(2, 1, 2), AXES)
    function = choose_attend(name, "tpu", mesh)
    layers = [(4096, 8, 40), (1024, 8, 80), (256, 8, 160), (64, 8, 160)]

    def program(layers, vae):
        # The VAE is frozen, and its single head is whole on each chip.
        return [forward_backward(function, *[array] * 4) for array in layers], function(*[vae] * 3)

    def shaped(length, heads, width):
        spec = PartitionSpec("data", None, "tensor" if heads > 1 else None)
        shape, place = (2, length, heads, width), NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

    arrays = [shaped(*layer) for layer in layers], shaped(4096, 1, 512)
    compiled = jax.jit(program).lower(*arrays).compile()
    text = compiled.as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == kernels * len(layers) + 1
    assert not any(word in text for word in ("all-gather", "all-to-all", "all-reduce"))
    # The scores of the first layer alone are 256 MiB on each chip.
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20
