"""`python -m moa_jax.page`: serve a page to play with, of the toy world or of any base.

    python -m moa_jax.page                                        the toy world, in seconds
    python -m moa_jax.page --base DIR_OR_HUB_ID --moa runs/mine   any Stable Diffusion 1.x or 2.x

It listens on this machine alone unless --host says otherwise, needs no internet, and keeps no
picture on disk. Exit code 2: something in the command or the files must be changed.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from moa_jax.cli import run
from moa_jax.errors import InputError
from moa_jax.extension import import_plugin
from moa_jax.page.setup import Setup, sampler_choices
from moa_jax.sampling.from_options import load_networks, read_settings
from moa_jax.sampling.options import add_lora, add_networks, add_no_cache, add_sampler
from moa_jax.sampling.settings import Settings
from moa_jax.toyworld import WEIGHTS
from moa_jax.toyworld.world.places import CHOICES

TOY = {"steps": 25, "sampler": "ddim", "guidance_scale": 2.5}
TOY_PROMPT = "a man and a woman waving with a balloon on the beach at sunset"
TOY_PEOPLE = (9, 10)  # the man and the woman of the first picture, by their number
PROMPT = "a man and a woman reading in the snow"


def main(command: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parse(command)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed
    return run(lambda: serve(arguments))


def _parse(command: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.page",
        description="Serve a page to play with: of the toy world, or of --base and --moa.",
    )
    served = parser.add_argument_group("where it is served").add_argument
    served("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for the network "
        "(%(default)s: this machine alone)")  # fmt: skip
    served("--port", type=int, default=7860, help="0 for any that is free (%(default)s)")
    served("--share", action="store_true", help="also through a public address of Gradio's")
    for title, add_to in (
        ("how it is drawn, at first", add_sampler),
        ("networks", add_networks),
        ("styles", add_lora),
        ("compiled programs", add_no_cache),
    ):
        add_to(parser.add_argument_group(title).add_argument)
    parser.set_defaults(moa_strength=[], controlnet=[])
    early, _ = parser.parse_known_args(command)
    if early.base is None:
        if early.moa is not None:
            parser.error("--moa needs the --base that it was trained on")
        parser.set_defaults(base=str(WEIGHTS / "base"), moa=str(WEIGHTS / "moa"), **TOY)
    return parser.parse_args(command)


def serve(arguments: argparse.Namespace) -> None:
    """Load the networks and serve the page, until it is stopped.

    Raises:
        InputError: an option cannot be served, or the extra `page` is not installed.
    """
    from moa_jax.page.uploads import private_folder

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is told to anybody
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with private_folder():
        try:
            import gradio  # noqa: F401 (it reads these variables when it is imported)
        except ImportError as error:
            raise InputError(
                f"the page needs Gradio ({error}): pip install 'moa_jax[page]'"
            ) from error
        from moa_jax.page.app import SESSIONS, make_page
        from moa_jax.page.layout import look
        from moa_jax.page.people import MAX_BYTES
        from moa_jax.page.studio import Studio

        for module in arguments.plugin:
            import_plugin(module)
        settings = read_settings(arguments)
        console = Console(stderr=True)
        with console.status(f"loading {arguments.base}"):
            studio = Studio(load_networks(arguments), settings)
        page = make_page(studio, _options(arguments, settings, studio))
        try:
            page.launch(
                server_name=arguments.host,
                server_port=arguments.port or free_port(arguments.host),
                share=arguments.share,
                max_file_size=MAX_BYTES,
                state_session_capacity=SESSIONS,
                footer_links=[],
                ssr_mode=False,
                **look(),
            )
        except OSError as error:
            raise InputError(
                f"--host {arguments.host} --port {arguments.port}: {error}; name another, or 0"
            ) from error


def _options(arguments: argparse.Namespace, settings: Settings, studio: Any) -> Any:
    """Say what the page offers: on the toy world people and words, elsewhere an empty form."""
    from moa_jax.page.layout import Options
    from moa_jax.page.people import EXAMPLES

    start = Setup(
        PROMPT,
        steps=settings.num_inference_steps,
        guidance=max(settings.guidance_scale, 1.0),
        sampler=settings.sampler,
    )
    samplers = sampler_choices(settings.sampler)
    if arguments.base != str(WEIGHTS / "base") or not studio.places:
        return Options(start, samplers)
    start = replace(start, prompt=TOY_PROMPT, bindings={1: 1, 4: 2}, people=TOY_PEOPLE)
    return Options(start, samplers, EXAMPLES, toy_words())


def toy_words() -> str:
    """List what the toy world can show, as Markdown."""
    rows = [("who", ["a man", "a woman", "a kid"])]
    rows += [(field, [text for text in table.values() if text]) for field, table in CHOICES.items()]
    return "\n".join(f"- {field}: {', '.join(texts)}" for field, texts in rows)


def free_port(host: str) -> int:
    """Find a port that nobody listens on."""
    import socket

    with socket.socket() as free:
        free.bind((host, 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
