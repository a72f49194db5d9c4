"""Evaluation: what the paper claims, measured. `toy` does so on the toy world."""
