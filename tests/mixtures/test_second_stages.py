"""Systems that go on from finished runs keep what every variant must keep."""

import jax
import numpy as np
import pytest

from moa_jax.config import Config
from moa_jax.method.identity import Identity
from moa_jax.method.trained import fixed_additions, learning_mask, partition
from moa_jax.method.weights import MoaCard, save_moa
from moa_jax.testing import check_variant
from moa_jax.testing.tried import Tried

HERE = "moa_jax.mixtures"


def finished(tried, folder, size=1.0):
    """Save a variant with weights that have moved, as its training would."""
    trained, frozen = partition(tried.moved, learning_mask(tried.moved, tried.method))
    trained = jax.tree.map(lambda leaf: size * leaf, trained)
    card = MoaCard(Config(method=tried.method), Identity.of(tried.base), 1)
    save_moa(folder, trained, card, jax.tree.map(np.asarray, fixed_additions(frozen)))
    return str(folder)


@pytest.mark.slow
@pytest.mark.nightly  # each is checked as the systems of `test_conformance.py` are
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lowrank:Lora(rank=2)", "several:XLora(number=2, rank=2, runs={runs!r})"),
        ("surgery:Mos(rank=2)", "surgery:Mos(tasks=2, rank=2, earlier={runs[0]!r})"),
    ],
)
def test_a_second_stage_is_a_variant(first, second, tmp_path):
    tried = Tried(f"{HERE}.{first}", {})
    runs = tuple(finished(tried, tmp_path / str(size), size) for size in (1.0, 0.5))
    check_variant(f"{HERE}.{second.format(runs=runs)}")
