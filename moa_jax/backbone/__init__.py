"""Stable Diffusion in Flax: U-Net, VAE, CLIP towers and their files.

Nothing here depends on MoA.
"""
