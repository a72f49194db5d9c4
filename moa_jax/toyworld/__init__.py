"""The toy world: drawn people in drawn places, and a Stable Diffusion small enough for a laptop.

`world` draws pictures, captions and masks; `pretraining` trains the networks on them; `readers`
judge pictures of this world; `weights` holds the committed networks. Everything goes to disk in the
public formats and is read back through the same code as a real checkpoint or data set.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"  # base, moa, readers, a style's LoRA and a ControlNet
