"""The paper: mixture of attention, multimodal prompt, losses, and the model they make together.

MoA: Mixture-of-Attention for Subject-Context Disentanglement in Personalized Image Generation,
arXiv 2404.11565. Reading this folder is reading the paper.
"""
