"""`python -m moa_jax.evaluation COMMAND ...`: measure what was trained; `COMMAND --help` says how.

Exit code 0: done, whatever the numbers say; 2: something in the command or the files must be
changed; 130: stopped by Ctrl-C.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "toy": ("moa_jax.evaluation.toy.command", "the paper's claims, on the toy world"),
    "sparse": (
        "moa_jax.evaluation.sparse.command",
        "what sparse routing changes, on toys",
    ),
    "drawn": ("moa_jax.evaluation.drawn.command", "the same weights, drawn in other ways, on toys"),
    "faces": ("moa_jax.evaluation.faces.command", "identity and prompt, on people's faces"),
    "import-fastcomposer": (
        "moa_jax.evaluation.fastcomposer.command",
        "make FastComposer's released weights loadable, as a baseline",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.evaluation",
        description="Measure what was trained.",
        epilog="; ".join(f"{name}: {what}" for name, (_, what) in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS, help="COMMAND --help tells more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    given = parser.parse_args(arguments)
    # Imported when it is asked for: each brings libraries that the others do without.
    return importlib.import_module(COMMANDS[given.command][0]).main(given.arguments)


if __name__ == "__main__":
    sys.exit(main())
