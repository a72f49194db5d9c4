"""Pictures to look at instead of numbers to read: grids, routing maps, training previews.

A routing map is always the personalized expert's weight on one fixed colour scale: dark violet is 0
(all prior), light yellow is 1 (all personalized). An attention map shows how much attention a
subject's word gets, from blue over green to yellow on a scale of its own. Arrays come in, pictures
go out: nothing here knows a model or jax.
"""

from moa_jax.figures.animation import save_animation
from moa_jax.figures.attention import attention_figure, subject_regions
from moa_jax.figures.canvas import colorize, overlay
from moa_jax.figures.frames import routing_frames
from moa_jax.figures.grids import Preview, image_grid, picture_table, preview_figure
from moa_jax.figures.routing import layer_group, mean_weights, routing_figure
from moa_jax.figures.shares import layer_shares, share_figure, subject_shares

__all__ = [
    "Preview",
    "attention_figure",
    "colorize",
    "image_grid",
    "layer_group",
    "layer_shares",
    "mean_weights",
    "overlay",
    "picture_table",
    "preview_figure",
    "routing_figure",
    "routing_frames",
    "save_animation",
    "share_figure",
    "subject_regions",
    "subject_shares",
]
