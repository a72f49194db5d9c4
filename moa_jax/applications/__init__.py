"""What people do with MoA, each a function of a pipeline: morph, time-lapse, editing of photos."""

from moa_jax.applications.edit import Edit, edit
from moa_jax.applications.morph import interpolate, morph
from moa_jax.applications.timelapse import timelapse

__all__ = ["Edit", "edit", "interpolate", "morph", "timelapse"]
