"""FastComposer as a baseline: its network as a variant, and its released weights read into it.

Source: FastComposer (arXiv 2305.10431) and its released code, mit-han-lab/fastcomposer.
"""
