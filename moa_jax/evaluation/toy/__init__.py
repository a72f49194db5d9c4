"""The study on the toy world, judged by readers of its own: `python -m moa_jax.evaluation toy`.

It trains the rows of the table, draws the protocol's trials, reads and measures the pictures, and
reports; what is done already is not done again.
"""
