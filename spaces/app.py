"""A Hugging Face Space on a CPU: the page of the toy world, as `python -m moa_jax.page` serves it.

`python spaces/build.py FOLDER` puts it together.
"""

import os
import sys

from moa_jax.page.__main__ import main

if __name__ == "__main__":
    # A Space says in Gradio's own variables where it expects the page.
    host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0")
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    sys.exit(main(["--host", host, "--port", port]))
