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


def finished(folder, name):
    """Save a variant with weights that have moved, as its training would."""
    tried = Tried(name, {})
    trained, frozen = partition(tried.moved, learning_mask(tried.moved, tried.method))
    card = MoaCard(Config(method=tried.method), Identity.of(tried.base), 1)
    save_moa(folder, trained, card, jax.tree.map(np.asarray, fixed_additions(frozen)))
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lowrank:Lora(rank=2)", "several:XLora(number=1, rank=2, runs=({folder!r},))"),
        ("surgery:Mos(rank=2)", "surgery:Mos(tasks=2, rank=2, earlier={folder!r})"),
    ],
)
def test_a_second_stage_is_a_variant(first, second, tmp_path):
    folder = finished(tmp_path, f"{HERE}.{first}")
    check_variant(f"{HERE}.{second.format(folder=folder)}")
