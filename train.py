# PYTHON_ARGCOMPLETE_OK
"""Train MoA on captioned pictures with masks: `python train.py configs/NAME.py`.

It is the command `moa-train` of the installed package; what it does is in moa_jax/training/run.py.
"""

import sys

from moa_jax.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
