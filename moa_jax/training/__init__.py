"""Training: what learns, one step, the mesh, checkpoints and the loop around them.

`train.py` puts these together. Nothing here knows how a mixture or a prompt is computed; that is
`moa_jax.method`.
"""
