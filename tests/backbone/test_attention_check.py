"""A kernel that computes something else is refused before anything is trained with it."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from moa_jax.backbone import attention_kernels as attend
from moa_jax.backbone.attention_check import check_kernel
from moa_jax.errors import InputError


def test_the_flash_kernel_agrees_with_plain_attention():
    check_kernel("flash", partial(attend.flash, interpret=True), attend.xla)


@pytest.mark.parametrize("fault", ["output", "gradient", "nan", "lost gradient", "padding"])
def test_a_kernel_that_is_off_is_named_with_the_remedy(fault):
    @jax.custom_gradient
    def doubled_backwards(mixed):
        return mixed, lambda gradient: (1.1 if fault == "gradient" else jnp.nan) * gradient

    def wrong(query, key, value):
        if fault == "padding":  # a token of zeros, as if it were real
            key, value = (jnp.pad(each, ((0, 0), (0, 56), (0, 0), (0, 0))) for each in (key, value))
        mixed = attend.xla(query, key, value)
        if fault.endswith("gradient"):
            return doubled_backwards(mixed)
        return {"output": 1.1 * mixed, "nan": mixed / 0.0 - mixed / 0.0}.get(fault, mixed)

    with pytest.raises(InputError, match="attention='made': on cpu .* Choose attention=splash"):
        check_kernel("made", wrong, attend.xla)


@pytest.mark.parametrize(
    ("backend", "name", "tried"),
    [("tpu", "auto", 1), ("tpu", "flash", 1), ("tpu", "xla", 0), ("cpu", "auto", 0)],
)
def test_the_kernel_is_tried_on_a_tpu_and_not_in_a_plan_for_one(monkeypatch, backend, name, tried):
    calls = []
    monkeypatch.setattr(attend, "check_kernel", lambda *given: calls.append(given))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 1))
    attend.choose_attend(name, "tpu")
    assert calls == [("flash", attend.flash, attend.xla)] * tried
