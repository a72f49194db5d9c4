"""`python -m moa_jax.toyworld.pretraining`: the toy world's Stable Diffusion, from nothing.

A module for each stage, in this order: `autoencoder`, `contrast` and `looks` (the towers), `prior`.
`recipe` holds every size and step count, `stage` runs the project's own training loop.
"""
