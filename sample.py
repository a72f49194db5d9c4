# PYTHON_ARGCOMPLETE_OK
"""Draw pictures of a prompt, with MoA or with plain Stable Diffusion; `--help` tells how.

It is the command `moa-sample` of the installed package; its code is moa_jax/commands/sample.py.
"""

import sys

from moa_jax.commands.sample import main

if __name__ == "__main__":
    sys.exit(main())
