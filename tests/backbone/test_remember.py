"""Shapes on disk: those that are traced, and asked for by all that decides them."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from moa_jax.backbone import remember as remembering
from moa_jax.backbone import shapes
from moa_jax.backbone.attention import Attention
from moa_jax.backbone.remember import describe, remember
from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.backbone.unet import UNet, UNetConfig
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import MixtureOfAttention
from moa_jax.method.model import build
from moa_jax.method.router import LinearRouter

SHAPES = {
    "conv_in": {"kernel": jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32)},
    "blocks.0": {"to_q": {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.bfloat16)}},
    "adds_nothing": {},
}


@pytest.fixture
def folder(tmp_path):
    """Where compiled programs are kept, empty."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def never(*_):
    raise AssertionError("traced again")


def test_what_was_traced_once_is_read(folder):
    assert remember("a", lambda: SHAPES) == SHAPES
    assert remember("a", never) == SHAPES
    assert [path.suffix for path in folder.iterdir()] == [".json"]
    with pytest.raises(AssertionError, match="traced again"):
        remember("b", never)


def test_a_damaged_file_is_written_anew(folder):
    remember("a", lambda: SHAPES)
    (file,) = folder.iterdir()
    file.write_text(file.read_text()[:20])
    assert remember("a", lambda: SHAPES) == SHAPES
    assert remember("a", never) == SHAPES


def test_other_sources_or_versions_ask_anew(folder, monkeypatch):
    remember("a", lambda: SHAPES)
    monkeypatch.setattr(remembering, "_versions", lambda: ["another"])
    with pytest.raises(AssertionError, match="traced again"):
        remember("a", never)


def test_every_source_that_builds_networks_is_digested(monkeypatch, tmp_path):
    for name in ("backbone/unet.py", "method/mixture.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(remembering, "SOURCES", tmp_path)
    found = set()
    for name in (None, "backbone/unet.py", "method/mixture.py"):
        if name:
            (tmp_path / name).write_text("other")
        remembering._versions.cache_clear()
        found.add(remembering._versions()[0])
    remembering._versions.cache_clear()
    assert len(found) == 3


@pytest.mark.parametrize("place", [None, "gs://bucket/programs"])
def test_without_a_folder_of_programs_nothing_is_kept(folder, place):
    jax.config.update("jax_compilation_cache_dir", place)
    assert remember("a", lambda: SHAPES) == SHAPES
    assert not [*folder.iterdir()]


def test_a_disk_that_cannot_be_written_costs_nothing_but_time(folder, tmp_path):
    (tmp_path / "file").write_text("")
    for below in ("file", "new"):
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / below / "programs"))
        assert remember("a", lambda: SHAPES) == SHAPES
    assert remember("a", never) == SHAPES  # a folder is made


def unet(width=8, **mixture):
    config = UNetConfig.from_dict(
        {"block_out_channels": [width, 16], "norm_num_groups": 2, "cross_attention_dim": 8}
        | {"down_block_types": ["CrossAttnDownBlock2D"] * 2, "attention_head_dim": 2}
        | {"up_block_types": ["CrossAttnUpBlock2D"] * 2, "layers_per_block": 1}
    )
    attention = partial(MixtureOfAttention, router=partial(LinearRouter, **mixture))
    return UNet(config, attention if mixture else Attention, jnp.dtype("bfloat16"))


def test_a_module_is_described_by_what_it_is_made_of():
    one = describe(unet(initial_personalized_weight=0.1))
    assert one == describe(unet(initial_personalized_weight=0.1))
    others = [unet(), unet(16), unet(initial_personalized_weight=0.2), unet().config]
    assert one not in [describe(other) for other in others]
    assert " at 0x" not in str(one)


def test_what_has_no_description_is_traced_every_time(folder):
    with pytest.raises(TypeError, match="no description"):
        describe(object())
    traced = []
    for _ in range(2):
        remember(object(), lambda: traced.append(1) or SHAPES)
    assert len(traced) == 2 and not [*folder.iterdir()]


def test_a_second_start_traces_no_network(folder, tiny_folder, monkeypatch):
    def start():
        shapes._shapes.cache_clear()
        base = load_stable_diffusion(tiny_folder)
        _, params = build(base, MethodConfig(), dtype=jnp.dtype("float32"), key=None)
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)

    first = start()
    monkeypatch.setattr(jax, "eval_shape", never)
    assert start() == first


def test_methods_of_unequal_variants_are_told_apart():
    @dataclass(frozen=True)
    class Plan:
        rank: int

        def experts(self):
            return self.rank

    Plan.__module__ = Plan.experts.__module__ = "moa_jax.somewhere"  # as if it were digested
    assert describe(Plan(2).experts) == describe(Plan(2).experts) != describe(Plan(3).experts)


def test_nothing_is_kept_of_code_that_is_not_digested(folder):
    remember(test_nothing_is_kept_of_code_that_is_not_digested, lambda: SHAPES)
    assert not [*folder.iterdir()]
