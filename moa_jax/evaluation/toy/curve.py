"""How much an expert must hold: what rows reach against the weights that they add to the U-Net."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from moa_jax.backbone.stable_diffusion import describe_stable_diffusion
from moa_jax.config import Config
from moa_jax.evaluation.toy.findings import COLUMNS, Results, RowResult
from moa_jax.evaluation.toy.rows import MOA
from moa_jax.method.model import build
from moa_jax.method.trained import count_added

AGAINST = ("identity/way", "swap/background")  # the measures that are drawn


def added_weights(config: Config) -> int:
    """Count what a configuration adds to the U-Net, routers included and the prompt left out.

    Args:
        config: `model.base` is a folder; its weights are not read.
    """
    base = describe_stable_diffusion(config.model.base, jnp.float32)
    _, params = build(base, config.method, dtype=jnp.float32, key=None)
    return count_added(params)


def draw_curve(axes: Sequence[Axes], results: Results) -> None:
    """Draw each measure of AGAINST over the weights, a ring for each training and a row's mean.

    Args:
        axes: one for each measure.
    """
    rows = [row for row in results.rows if row.runs and row.weights]
    for ax, key in zip(axes, AGAINST, strict=True):
        column = next(each for each in COLUMNS if each.key == key)
        scale = 100 if column.percent else 1
        for row in rows:
            values = scale * np.asarray(results.values(row.name, key))
            _mark(ax, row, values)
        ax.set_xscale("log")
        ax.set_xlabel("weights added to the U-Net")
        ax.set_title(column.title, fontsize=9)
        ax.margins(x=0.2, y=0.15)
        ax.spines[["top", "right"]].set_visible(False)


def _mark(ax: Axes, row: RowResult, values: np.ndarray) -> None:
    color = "#9f1239" if row.name == MOA else "#3f3f46"
    places = np.full(len(values), row.weights)
    ax.plot(places, values, "o", color=color, fillstyle="none", alpha=0.6)
    ax.plot(row.weights, values.mean(), "o", color=color)
    ax.annotate(
        row.name,
        (row.weights, values.mean()),
        xytext=(5, 3),
        textcoords="offset points",
        fontsize=7,
    )
