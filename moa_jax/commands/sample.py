# PYTHON_ARGCOMPLETE_OK
"""Draw pictures of a prompt, with MoA or with plain Stable Diffusion; `--help` tells how."""

import argparse
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from moa_jax import __version__
from moa_jax.cli import Bar, make_folder, run
from moa_jax.commands.completion import SAMPLE, complete, sample_parser
from moa_jax.sampling.options import CREDENTIALS, parse_arguments


def main(command: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    complete(sample_parser, SAMPLE)
    arguments = parse_arguments(sys.argv[1:] if command is None else command)

    def work() -> None:
        if arguments.plan:
            return plan(arguments)
        from moa_jax.sampling.from_options import read_credentials  # slow: not for --help

        out = make_folder("--out", arguments.out)
        signer = read_credentials(arguments)  # before the work: a key may not fit
        pipe = load(arguments)
        save(out, arguments, pipe, *run_mode(arguments, pipe), signer)

    return run(work)


def load(arguments: argparse.Namespace) -> Any:
    """Load the pipeline, and show that it is being loaded."""
    from moa_jax.sampling.from_options import load_networks  # slow to import: not for --help

    console = Console(stderr=True)
    warnings.showwarning = lambda message, *_: console.print(f"warning: {message}", highlight=False)
    with console.status(f"loading {arguments.base}"):
        return load_networks(arguments)


class Steps(Bar):
    """A progress bar over the steps of the sampler, with their speed."""

    def __init__(self, total: int) -> None:
        """Start with the word "compiling", because the first step compiles."""
        super().__init__("compiling", total)
        self._done, self._total = 0, total

    def __call__(self, *_: Any) -> None:
        """Count a step."""
        self._done = min(self._done + 1, self._total)  # pndm takes its first step twice
        self.describe("drawing")
        self.show(self._done, note="" if self.speed is None else f"{self.speed:.2f} steps/s")


Drawn = tuple[Any, dict[str, Any]]  # the result, and other pictures by name


def draw(arguments: argparse.Namespace, pipe: Any, shared: dict[str, Any]) -> Drawn:
    """Draw pictures of a prompt."""
    result = pipe(
        arguments.prompt,
        arguments.subject,
        seed=arguments.seed,
        num_images=arguments.num_images,
        image=arguments.image,
        mask=arguments.mask,
        strength=arguments.strength,
        batch_size=arguments.batch_size,
        **shared,
    )
    return result, {}


def morph(arguments: argparse.Namespace, pipe: Any, shared: dict[str, Any]) -> Drawn:
    """Draw one subject becoming another."""
    from moa_jax.applications import morph

    result = morph(
        pipe,
        arguments.prompt,
        arguments.subject,
        arguments.to,
        arguments.frames,
        which=arguments.which,
        spherical=arguments.spherical,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        **shared,
    )
    return result, {}


def timelapse(arguments: argparse.Namespace, pipe: Any, shared: dict[str, Any]) -> Drawn:
    """Draw the way from word to word."""
    from moa_jax.applications import timelapse

    result = timelapse(
        pipe,
        arguments.prompt,
        arguments.words,
        arguments.subject,
        arguments.frames,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        **shared,
    )
    return result, {}


def edit(arguments: argparse.Namespace, pipe: Any, shared: dict[str, Any]) -> Drawn:
    """Draw a photo again with other people in it."""
    from moa_jax.applications import edit

    edited = edit(
        pipe,
        arguments.image,
        arguments.prompt,
        arguments.subject,
        source_prompt=arguments.source_prompt,
        source_subjects=arguments.source_subject,
        mask=arguments.mask,
        strength=arguments.strength,
        iterations=arguments.iterations,
        **shared,
    )
    print(f"the photo drawn again from its noise: {edited.error:.1f} dB")
    return edited.result, {"photo": edited.photo, "reconstruction": edited.reconstruction}


DRAW = {"draw": draw, "morph": morph, "timelapse": timelapse, "edit": edit}


def passes(arguments: argparse.Namespace) -> int:
    """Count the steps that the progress bar will show."""
    from moa_jax.sampling.start import skipped_steps

    taken = arguments.steps
    if getattr(arguments, "image", None):
        inpainting = arguments.mode == "draw" and arguments.mask is not None
        taken -= skipped_steps(taken, arguments.strength, inpainting)
    # An edit leads the photo to noise, and draws it from there as it was and with other people.
    if arguments.mode == "edit":
        return taken * (arguments.iterations + 2)
    pictures = arguments.num_images if arguments.mode == "draw" else arguments.frames
    if pictures is None:  # a frame for each word
        pictures = len(arguments.words)
    return taken * math.ceil(pictures / (arguments.batch_size or pictures or 1))


def run_mode(arguments: argparse.Namespace, pipe: Any) -> Drawn:
    """Draw in the chosen mode, with the options of all modes and a progress bar."""
    from moa_jax.sampling.from_options import read_settings
    from moa_jax.sampling.short_forms import read_control

    names = ("negative_prompt", "plain_prompt", "height", "width")
    shared = {name: getattr(arguments, name) for name in names}
    shared |= vars(read_settings(arguments))
    shared |= {"watch": arguments.look, "controls": [*map(read_control, arguments.control)]}
    with Steps(passes(arguments)) as on_step:
        return DRAW[arguments.mode](arguments, pipe, {**shared, "on_step": on_step})


def plan(arguments: argparse.Namespace) -> None:
    """Print what drawing a batch takes on one device of a TPU topology."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs: a device here is not to be claimed

    from moa_jax.method.source import find_moa
    from moa_jax.method.weights import read_moa_card
    from moa_jax.planning.plan import plan_sampling
    from moa_jax.planning.programs import Drawing
    from moa_jax.planning.report import rendered
    from moa_jax.sampling.from_options import read_settings

    config = None
    if arguments.moa:
        config = read_moa_card(find_moa(arguments.moa, "--moa", weights=False)).config
    drawing = Drawing(
        arguments.base,
        read_settings(arguments),
        config and config.method,
        image_encoder=arguments.image_encoder or (config and config.model.image_encoder),
        dtype=arguments.dtype or "bfloat16",
        attention=arguments.attention,
        num_images=arguments.num_images,
        height=arguments.height,
        width=arguments.width,
        tokenizer=arguments.tokenizer,
        prediction_type=arguments.prediction_type or (config and config.model.prediction_type),
        quantization=arguments.quantization,
    )
    console = Console()
    with console.status("compiling"):
        planned = plan_sampling(arguments.plan, drawing)
    what = f"{arguments.num_images} picture(s) on one device of {arguments.plan}"
    console.print(f"{what}, {arguments.steps} steps", highlight=False)
    console.print(rendered([planned]), highlight=False)


def save(
    out: Path,
    arguments: argparse.Namespace,
    pipe: Any,
    result: Any,
    others: dict[str, Any],
    signer: Any,
) -> None:
    """Write the pictures, the figures of who drew where, and what it takes to draw them again.

    Args:
        others: further pictures, by name.
        signer: the `Credentials` that sign them; None means that none is signed.
    """
    from moa_jax.sampling.save import save_result

    save_result(
        result,
        out,
        f"{arguments.seed:05d}",
        make_record(arguments, pipe, result.images),
        animation=arguments.animation if arguments.mode in ("morph", "timelapse") else None,
        subjects=[Path(subject).stem for subject in arguments.subject],
        look=arguments.look,
        others=others,
        credentials=signer or False,
    )
    width, height = result.images[0].size
    print(f"wrote {len(result.images)} picture(s) of {width}x{height} pixels to {out}/")


# Options that say nothing about the pictures.
WHERE = ("out", "from_json", "plan", "no_cache", "plugin", *CREDENTIALS)


def make_record(arguments: argparse.Namespace, pipe: Any, images: list[Any]) -> dict[str, Any]:
    """Gather what it takes to draw the pictures again."""
    import jax

    from moa_jax.method.identity import Identity

    width, height = images[0].size  # as drawn: the options may have left them to the checkpoint
    return {
        **{name: value for name, value in vars(arguments).items() if name not in WHERE},
        "width": width,
        "height": height,
        "dtype": pipe.dtype.name,
        "fingerprints": Identity.of(pipe.base).fingerprints,  # a folder's name proves nothing
        "versions": {"moa_jax": __version__, "jax": jax.__version__},
    }


if __name__ == "__main__":  # python -m moa_jax.commands.sample
    sys.exit(main())
