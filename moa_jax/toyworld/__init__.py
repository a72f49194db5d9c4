"""A small world made on the spot: what `make demo` and tests run on without a download.

`tokenizer` writes a small CLIP tokenizer; the other files write a small random Stable Diffusion
folder and a small captioned, masked data set. Everything goes to disk in the public formats and is
read back through the same code as a real checkpoint or data set.
"""
