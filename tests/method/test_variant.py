"""A variant of anybody's: found by its name, and held to what everybody relies on."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.variant import Variant, name_of, resolve
from moa_jax.testing import CHECKS, check_variant, small_stable_diffusion
from tests.method import variants
from tests.method.variants import Everything

HERE = "tests.method.variants"


@pytest.mark.parametrize(
    ("variant", "method"),
    [
        ("moa", {}),
        *(
            pytest.param(each, method, marks=[pytest.mark.slow, *more])
            for each, method, more in (
                ("moa", {"router": "mlp", "time_layer_conditioning": False}, [pytest.mark.nightly]),
                (f"{HERE}:Everything", {}, []),
                (f"{HERE}:ThreeExperts", {}, [pytest.mark.nightly]),
                ("examples.lora_expert:Lora(rank=2)", {}, [pytest.mark.nightly]),
                ("examples.router_in_20_lines:CentreRouting(reach=0.4)", {}, []),
            )
        ),
    ],
)
def test_a_sound_variant_passes_all_checks(variant, method):
    assert check_variant(variant, **method) == dict.fromkeys(CHECKS, "passed")


@pytest.mark.slow
def test_a_single_branch_is_the_prior_only_under_the_dial():
    """Its router gives the prior nothing, and learns nothing."""
    found = check_variant("moa", router="personalized", router_loss_weight=0.0)
    assert set(found.values()) == {"passed"}


@pytest.mark.parametrize(
    ("variant", "check"),
    [
        (variants.Leaky(), "pictures_apart"),
        (variants.Short(), "routing"),
        pytest.param(variants.Idle(), "gradients", marks=pytest.mark.slow),
        pytest.param(variants.NotThePrior(), "prior_at_start", marks=pytest.mark.slow),
        (Everything(gain=1.5), "prior_at_start"),
    ],
)
def test_what_breaks_a_promise_is_named(variant, check):
    with pytest.raises(AssertionError, match=f"^{check}: "):
        check_variant(variant)


def test_what_is_given_up_by_design_is_reported_with_its_reason():
    found = check_variant(variants.Admitted())
    assert found.pop("prior_at_start") == "its expert starts at random"
    assert set(found.values()) == {"passed"}


def test_a_name_makes_the_variant_with_its_options():
    assert resolve("moa") == Variant()
    assert resolve(f"{HERE}:Everything(gain=2.0)") == Everything(gain=2.0)
    assert name_of(Everything(gain=2.0)) == f"{HERE}:Everything(gain=2.0)"
    assert (name_of(Variant()), name_of(variants.Leaky())) == ("moa", f"{HERE}:Leaky")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("moe", "must be moa, or a class of your own as package.module:name"),
        ("no_such_module:Lora", "there is no module 'no_such_module', nor no_such_module.py in"),
        (f"{HERE}:Everythin", "has no class or function 'Everythin'; the nearest: Everything"),
        (f"{HERE}:Everything(gian=2)", "Everything takes no option 'gian'; the nearest: gain"),
        (f"{HERE}:Everything(gain=math.pi)", "each option a Python literal"),
        (f"{HERE}:Everything(2.0)", "must be of the form"),
        (f"{HERE}:LeakyRouter", "must name a subclass of moa_jax.method.variant.Variant"),
        (":Everything", "must be of the form"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_nearest(name, message):
    with pytest.raises(InputError) as error:
        resolve(name)
    assert "method.mixture=" in str(error.value) and message in str(error.value)


def test_a_module_that_does_not_run_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(InputError, match="importing broken_plugin failed: ZeroDivisionError"):
        resolve("broken_plugin:Anything")


def test_what_cannot_be_named_again_is_refused():
    with pytest.raises(InputError, match="cannot be named"):
        name_of(variants.Forgetful(token=object()))

    class Local(Variant):
        pass

    with pytest.raises(InputError, match="cannot be named"):
        name_of(Local())


def test_whole_numbers_that_are_shared_keep_their_dtype():
    from moa_jax.method.model import build

    method = MethodConfig(mixture=f"{HERE}:Everything", image_encoder_layers=0, router_loss_skip=0)
    base = small_stable_diffusion()
    _, params = build(base, method, dtype=jnp.float32, key=jax.random.key(0))
    np.testing.assert_array_equal(params["variant"]["codes"], np.arange(4, dtype=np.int8))
    assert params["variant"]["codes"].dtype == jnp.int8
