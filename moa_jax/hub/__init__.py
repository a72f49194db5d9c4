"""MoA weights on the Hugging Face hub: loaded, saved and pushed, with a model card.

`weights` is the class, `card` writes the card, `measured` the table of an evaluation in it. The
format of the files is that of `moa_jax.method.weights`.
"""
