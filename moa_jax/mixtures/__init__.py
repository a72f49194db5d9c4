"""The mixture lab: MoA's neighbours, each in MoA's place on the same layer, prompt and losses.

A module holds a family. A class is one idea, as its paper or code has it, and is used by its name:

    python train.py configs/toy.py 'method.mixture=moa_jax.mixtures.lowrank:Lora(rank=4)'

`CATALOGUE` lists all of them. A class's docstring says the idea in its first line and then, each in
a line that begins so, "Equation:", "Source:" and "Left out:" (what has no meaning here, or was not
taken over). What a class gives up by design stands in its `exceptions`. Neighbours that are no
variants of the layer (they pack, place, move or explain one) are listed in `BESIDE`.
"""

from moa_jax.mixtures.beside import BESIDE, Tool
from moa_jax.mixtures.catalogue import CATALOGUE, System

__all__ = ["BESIDE", "CATALOGUE", "System", "Tool"]
