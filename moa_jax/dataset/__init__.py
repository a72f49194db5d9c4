"""From a folder of photographs to a data set: captions, masks, and words bound to them.

`build` does all; `python -m moa_jax.data build SRC DST` calls it. The networks come in as objects
of four small protocols (`moa_jax.dataset.models`), so nothing here depends on which they are.
"""

from moa_jax.dataset.build import build
from moa_jax.dataset.finish import Report
from moa_jax.dataset.models import Captioner, Grounder, Models, Phrase, Segmenter, open_models
from moa_jax.dataset.options import Options

__all__ = [
    "Captioner",
    "Grounder",
    "Models",
    "Options",
    "Phrase",
    "Report",
    "Segmenter",
    "build",
    "open_models",
]
