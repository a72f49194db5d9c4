r"""Draw pictures of a prompt, with MoA or with plain Stable Diffusion.

python sample.py --model DIR_OR_HUB_ID --moa DIR --subject a.jpg --subject b.jpg \
      --prompt "a man <|image|> and a woman <|image|> reading in the snow" --out out/
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from moa_jax import __version__
from moa_jax.command import make_folder, run


def main(command: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is returned."""
    arguments = parse_arguments(command)

    def work() -> None:
        if arguments.plan:
            return plan(arguments)
        out = make_folder("--out", arguments.out)
        save(out, arguments, *draw(arguments))

    return run(work)


def parse_arguments(command: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what it says wrongly ends the program with exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="Stable Diffusion 1.x or 2.x: diffusers folder or hub id")
    add("--moa", help="folder with moa.safetensors and moa.json; without it, plain SD")
    add(
        "--prompt", required=True, help="with <|image|> after each word that a subject personalizes"
    )
    add("--subject", action="append", default=[], help="picture of a subject; once for each marker")
    add("--negative-prompt", default="", help="what to lead away from")
    add("--num-images", type=int, default=4, help="pictures to draw (%(default)s)")
    add("--steps", type=int, default=50, help="sampler steps (%(default)s)")
    add("--guidance-scale", type=float, default=5.0, help="1 switches guidance off (%(default)s)")
    add("--sampler", default="ddim", help="how to sample (%(default)s)")
    add("--height", type=int, help="in pixels; default: the checkpoint's own size")
    add("--width", type=int, help="in pixels; default: the checkpoint's own size")
    add("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16, or float32 on a CPU")
    add("--attention", default="auto", help="auto, xla, blocked, splash or cudnn (%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--variant", help='which weights of the folder to read, e.g. "fp16"')
    add("--image-encoder", help="CLIP folder or hub id; default: the one MoA was trained with")
    add("--out", default="out", help="folder to write to (%(default)s/)")
    add(
        "--plan",
        metavar="TOPOLOGY",
        help="compile for a TPU that is not here, e.g. v5e:1x1, say what drawing takes, and stop; "
        "reads no weights",
    )
    return parser.parse_args(command)


def draw(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Load the pipeline and draw, with a progress bar over the sampler's steps."""
    from moa_jax.pipeline import Pipeline  # slow to import: not for --help or a typo

    console = Console(stderr=True)
    warnings.showwarning = lambda message, *_: console.print(f"warning: {message}", highlight=False)
    with console.status(f"loading {arguments.model}"):
        pipe = Pipeline.from_pretrained(
            arguments.model,
            arguments.moa,
            arguments.dtype,
            variant=arguments.variant,
            image_encoder=arguments.image_encoder,
            attention=arguments.attention,
        )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("compiling", total=arguments.steps)

        def on_step(_: int) -> None:
            progress.update(task, description="drawing", advance=1)

        result = pipe(
            arguments.prompt,
            arguments.subject,
            negative_prompt=arguments.negative_prompt,
            num_images=arguments.num_images,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance_scale,
            sampler=arguments.sampler,
            seed=arguments.seed,
            height=arguments.height,
            width=arguments.width,
            on_step=on_step,
        )
    return pipe, result


def plan(arguments: argparse.Namespace) -> None:
    """Say what drawing a batch takes on one device of a TPU topology."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing runs: a device here is not to be claimed

    from moa_jax.backbone.attend import choose_attend
    from moa_jax.backbone.stable_diffusion import describe_stable_diffusion
    from moa_jax.config import MeshConfig
    from moa_jax.method.weights import read_moa_card
    from moa_jax.planning.plan import plan_sampling
    from moa_jax.planning.programs import sampling_program
    from moa_jax.planning.report import rendered
    from moa_jax.planning.topology import topology_devices
    from moa_jax.training.mesh import make_mesh

    config = read_moa_card(arguments.moa).config if arguments.moa else None
    encoder = arguments.image_encoder or (config and config.model.image_encoder)
    dtype = arguments.dtype or "bfloat16"
    device = topology_devices(arguments.plan)[0]
    attend = choose_attend(arguments.attention, device.platform)
    console = Console()
    with console.status("compiling"):
        program = sampling_program(
            describe_stable_diffusion(arguments.model, dtype, encoder, attend),
            config and config.method,
            make_mesh(MeshConfig(), [device]),
            num_images=arguments.num_images,
            height=arguments.height,
            width=arguments.width,
            num_inference_steps=arguments.steps,
            guided=arguments.guidance_scale > 1,
            sampler=arguments.sampler,
        )
        planned = plan_sampling(program, device, arguments.num_images)
    what = f"{arguments.num_images} picture(s) on one device of {arguments.plan}"
    console.print(f"{what}, {arguments.steps} steps", highlight=False)
    console.print(rendered([planned]), highlight=False)


def save(out: Path, arguments: argparse.Namespace, pipe: Any, result: Any) -> None:
    """Write the pictures, the routing figures, and what it takes to draw them again."""
    import jax

    from moa_jax.figures import image_grid, routing_figure
    from moa_jax.method.weights import Identity

    names = []
    for index, image in enumerate(result.images):
        names.append(f"{arguments.seed:05d}-{index:02d}.png")
        image.save(out / names[-1])
        if result.routing:
            routing_figure(image, result.routing, index).save(
                out / f"{arguments.seed:05d}-{index:02d}-routing.png"
            )
    if len(result.images) > 1:
        image_grid(result.images).save(out / f"{arguments.seed:05d}-grid.png")
    width, height = result.images[0].size
    record = {
        **vars(arguments),
        "height": height,
        "width": width,
        "dtype": pipe.dtype.name,
        "fingerprints": Identity.of(pipe.base).fingerprints,
        "images": names,
        "versions": {"moa_jax": __version__, "jax": jax.__version__},
    }
    (out / f"{arguments.seed:05d}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {len(names)} picture(s) of {width}x{height} pixels to {out}/")


if __name__ == "__main__":
    sys.exit(main())
