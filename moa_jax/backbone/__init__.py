"""Stable Diffusion in Flax: U-Net, VAE, CLIP towers and their files. Knows nothing of MoA."""
