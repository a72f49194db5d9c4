"""How much an expert must hold: what rows reach against the weights that they add to the U-Net."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import BboxBase

from moa_jax.backbone.stable_diffusion import describe_stable_diffusion
from moa_jax.config import Config
from moa_jax.evaluation.toy.findings import COLUMNS, Results
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
        axes: one for each measure, in their final places: names are kept apart as they stand there.
    """
    rows = [row for row in results.rows if row.runs and row.weights]
    for ax, key in zip(axes, AGAINST, strict=True):
        column = next(each for each in COLUMNS if each.key == key)
        scale = 100 if column.percent else 1
        means = {}
        for row in rows:
            values = scale * np.asarray(results.values(row.name, key))
            color = "#9f1239" if row.name == MOA else "#3f3f46"
            places = np.full(len(values), row.weights)
            ax.plot(places, values, "o", color=color, fillstyle="none", alpha=0.6)
            ax.plot(row.weights, values.mean(), "o", color=color)
            means[row.name] = (float(row.weights), float(values.mean()))
        ax.set_xscale("log")
        ax.set_xlabel("weights added to the U-Net")
        ax.set_title(column.title, fontsize=9)
        ax.margins(x=0.2, y=0.15)
        ax.spines[["top", "right"]].set_visible(False)
        _name(ax, means)


def _name(ax: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each point's name to its right, lower where it would cover another name."""
    taken: list[BboxBase] = []
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        text = ax.annotate(
            name, point, xytext=(6, 3), textcoords="offset points", va="center", fontsize=7
        )
        while any(text.get_window_extent().overlaps(other) for other in taken):
            right, up = text.xyann
            text.xyann = (right, up - 1)
        taken.append(text.get_window_extent())
