"""Evaluation: `toy` measures the paper's claims on the toy world, `faces` those on real people."""
