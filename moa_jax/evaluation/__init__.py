"""Evaluation: what the paper claims, measured on the toy world by readers of its own.

`python -m moa_jax.evaluation toy` trains the rows of the table, draws, reads and reports.
"""
