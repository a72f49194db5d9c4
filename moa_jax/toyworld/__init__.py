"""The toy world: drawn people in drawn places, and a Stable Diffusion small enough for a laptop.

`scenes` (with `people`, `places`, `brush`) draws pictures, captions and masks; `pretrain` trains
the networks of `architecture` on them by the values of `recipe`; `readers` judge pictures of this
world. Everything goes to disk in the public formats and is read back through the same code as a
real checkpoint or data set.
"""
