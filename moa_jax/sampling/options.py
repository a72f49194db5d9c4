r"""The options of `moa-sample` and sample.py: modes, help texts, and the short forms of values.

Options that are not given may come from the record of an earlier run. Neither a network nor
jax is imported, so that `--help` and the completion of words are quick.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from moa_jax import __version__
from moa_jax.cli import Renamed, command_name
from moa_jax.errors import InputError
from moa_jax.extension import import_plugin, is_name, require_imported
from moa_jax.sampling.record import read_record

ABOUT = r"""Draw pictures of a prompt, with MoA or with plain Stable Diffusion.

  {command} [draw] --base DIR_OR_HUB_ID --moa DIR --subject a.jpg --subject b.jpg \
      --prompt "a man <|image|> and a woman <|image|> reading in the snow" --out out/

Other modes (each with its own --help):
  morph      one subject becomes another, frame by frame
  timelapse  words take turns: kid, person, elderly person
  edit       a real photo, drawn again with other people in it
"""
# What each mode does, and an example with the options that only it has.
MODES = {
    "draw": (
        ABOUT,
        '--prompt "a man <|image|> on skis" --subject him.jpg --image photo.jpg --strength 0.6',
    ),
    "morph": (
        "One subject becomes another, frame by frame, in the space of the image features.",
        '--prompt "a man <|image|> on skis" --subject him.jpg --to her.jpg --frames 12',
    ),
    "timelapse": (
        "One picture of a person, and words that take turns in the prompt.",
        '--prompt "a {word} <|image|> on skis" --words kid person "elderly person" '
        "--subject him.jpg --frames 9",
    ),
    "edit": (
        "Lead a real photo back to noise (DDIM inversion) and draw it again with other people.",
        '--image photo.jpg --source-prompt "a man on skis" --prompt "a man <|image|> on skis" '
        "--subject him.jpg",
    ),
}


def parse_arguments(command: Sequence[str]) -> argparse.Namespace:
    """Read the command line; a mistake in it ends the program with exit code 2."""
    named = command[0] if command and command[0] in MODES else None
    options = list(command[1:] if named else command)
    mode = named or "draw"
    parser = make_parser(mode)
    start = argparse.Namespace()
    # Known options only: the record may be of another mode, whose options this parser lacks.
    file = parser.parse_known_args(options)[0].from_json
    if file:
        try:
            record = read_record(file)
        except InputError as error:
            parser.error(str(error))
        mode = record.get("mode", "draw")
        allowed = (named,) if named else MODES
        if mode not in allowed:
            others = " or ".join(map(repr, allowed))
            parser.error(f"--from-json: {file} was made by {mode!r}, not by {others}")
        parser = make_parser(mode)
        start = _recorded(record, parser, options)
    given = parser.parse_args(options, start)
    try:
        _import_plugins(given, file)
    except InputError as error:
        parser.error(str(error))
    for name in ("base", "prompt", *NEEDED[mode]):
        if not getattr(given, name):
            parser.error(f"--{name.replace('_', '-')} is required")
    given.mode = mode
    return given


def _import_plugins(given: argparse.Namespace, file: str | None) -> None:
    """Import the plugins; one that is missing, or a record that needs another, is an InputError."""
    for module in given.plugin:
        import_plugin(module)
    if file and is_name(given.sampler):  # a file must not make code run by itself
        require_imported(given.sampler, "sampler")


def _recorded(
    record: dict[str, Any], parser: argparse.ArgumentParser, options: list[str]
) -> argparse.Namespace:
    """Return the values that a record holds for the options of a parser.

    A list on the command line replaces the record's list, to which argparse would append.
    """
    given = vars(parser.parse_args(options))
    replaced = {
        name
        for name, value in given.items()
        if isinstance(value, list) and value != parser.get_default(name)
    }
    if "model" in record:  # the name of --base in records of earlier versions
        record = {"base": record["model"], **record}
    # Earlier versions knew no weights, and cut a prompt at the end of the window.
    record = {"plain_prompt": True, **record}
    not_taken = {"out", "from_json", "plugin", *CREDENTIALS, *replaced}
    names = [name for name in given if name in record and name not in not_taken]
    return argparse.Namespace(**{name: record[name] for name in names})


CREDENTIALS = ("no_credentials", "credentials_key", "credentials_cert")
NEEDED = {"draw": (), "morph": ("to",), "timelapse": ("words",), "edit": ("image", "source_prompt")}


def make_parser(mode: str) -> argparse.ArgumentParser:
    """Make the parser of a mode's options."""
    about, example = MODES[mode]
    command = command_name("sample.py")
    name = command.removeprefix("python ")
    parser = argparse.ArgumentParser(
        prog=name if mode == "draw" else f"{name} {mode}",
        description=about.replace("{command}", command),
        epilog=f"example: {command} {mode} --base DIR --moa DIR {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for title, add_to in (
        ("what is drawn", _add_prompt),
        (f"{mode} alone", OWN[mode]),
        ("how it is drawn", _add_settings),
        ("networks", add_networks),
        ("output", _add_output),
    ):
        add_to(parser.add_argument_group(title).add_argument)
    parser.add_argument("--version", action="version", version=f"moa_jax {__version__}")
    parser.set_defaults(plan=None, **DEFAULTS.get(mode, {}))
    return parser


# Defaults of a mode that differ from those of the other modes.
DEFAULTS = {"edit": {"sampler": "ddim", "guidance_scale": 1.0}}


Add = Callable[..., Any]


def _add_prompt(add: Add) -> None:
    add("--prompt", help="with <|image|> after each word that a subject personalizes, and "
        "(text:1.2) where words have a weight")  # fmt: skip
    add("--subject", action="append", default=[], help="picture of a subject; once for each marker")
    add("--negative-prompt", default="", help="what to lead away from")
    add("--plain-prompt", action=argparse.BooleanOptionalAction, default=False,
        help="read no weights in prompts, and cut them at the text encoder's window")  # fmt: skip
    add("--height", type=int, help="in pixels; default: the checkpoint's own size, or the photo's")
    add("--width", type=int, help="likewise")
    add("--seed", type=int, default=0, help="(%(default)s)")


def _add_draw(add: Add) -> None:
    add("--num-images", type=int, default=4, help="pictures to draw (%(default)s)")
    add("--image", help="photo to start from instead of noise alone")
    add("--mask", help="bright where --image is drawn anew; the rest is kept")
    add("--strength", type=float, help="how far from --image, 0 to 1 (0.8; 1 with --mask)")
    add(
        "--plan",
        metavar="TOPOLOGY",
        help="compile for a TPU that is not here, e.g. v5e:1x1, say what drawing takes, and stop; "
        "reads no weights",
    )


def _add_morph(add: Add) -> None:
    add("--to", help="picture of whom the subject becomes")
    add("--frames", type=int, default=8, help="(%(default)s)")
    add("--which", type=int, default=0, help="of several subjects, counted from 0 (%(default)s)")
    add("--spherical", action="store_true", help="turn at constant speed instead of a straight way")
    add("--animation", default="gif", help="gif, webp or mp4 (%(default)s)")


def _add_timelapse(add: Add) -> None:
    add("--words", nargs="+", default=[], help="what {word} in the prompt becomes, in this order")
    add("--frames", type=int, help="default: one for each word")
    add("--animation", default="gif", help="gif, webp or mp4 (%(default)s)")


def _add_edit(add: Add) -> None:
    add("--image", help="the photo")
    add("--source-prompt", help="what the photo shows; <|image|> as in --prompt")
    add("--source-subject", action="append", default=[], help="for each marker of --source-prompt")
    add("--mask", help="bright where the photo may change; the rest is kept")
    add("--strength", type=float, default=1.0, help="how far back to lead it, 0 to 1 (%(default)s)")
    add("--iterations", type=int, default=5, help="passes for each step back (%(default)s)")


OWN = {"draw": _add_draw, "morph": _add_morph, "timelapse": _add_timelapse, "edit": _add_edit}


def add_sampler(add: Add) -> None:
    """Add the options of sampler, guidance, delay and sparse routing."""
    add("--steps", type=int, default=50, help="sampler steps (%(default)s)")
    add("--sampler", default="unipc", help="unipc, dpm++2m, euler, euler_a, ddim, ddpm, pndm, lcm, "
        "checkpoint for the checkpoint's own, or your module:function (%(default)s)")  # fmt: skip
    add("--karras", action="store_true", help="space the steps by Karras et al.")
    add("--eta", type=float, help="share of fresh noise in DDIM's steps, 0 to 1")
    add("--guidance-scale", type=float, default=5.0, help="1 switches guidance off (%(default)s)")
    add("--guidance-rescale", type=float, default=0.0, help="0 to 1; 0.7 against overexposure")
    add("--guidance-interval", type=float, nargs=2, default=[0.0, 1.0], metavar=("FROM", "TO"),
        help="guide only this part of the steps (0 1)")  # fmt: skip
    add("--delay", type=float, default=0.0, metavar="SHARE", help="share of the steps, at first, "
        "that see the text without the subjects; FastComposer's: 0.2 (%(default)s)")  # fmt: skip
    add("--capacity", type=float, default=1.0, metavar="SHARE", help="share of the pixels that the "
        "personalized expert draws, where it weighs most; 1: exact (%(default)s)")  # fmt: skip
    add("--skip-below", type=float, default=0.0, metavar="WEIGHT", help="leave this expert out of "
        "a layer in which its mean weight is below; 0: off (%(default)s)")  # fmt: skip


def _add_settings(add: Add) -> None:
    add_sampler(add)
    add("--moa-strength", action="append", default=[], metavar="[LAYERS=]VALUE[@FROM:TO]",
        help="0: the prior; 1: as trained; more: up to the subjects alone. E.g. 0.8, up=1.5, "
        "0@0:0.3; given several times, a later one overrules")  # fmt: skip
    add_lora(add)
    add("--controlnet", action="append", default=[], help="folder or hub id of a ControlNet")
    add("--control", action="append", default=[], metavar="IMAGE[:SCALE[:FROM:TO]]",
        help="for each --controlnet its picture, scale and part of the steps")  # fmt: skip


def add_lora(add: Add) -> None:
    """Add the option that merges LoRAs."""
    add("--lora", action="append", default=[], metavar="FILE[:WEIGHT[:EXPERTS]]",
        help="a style, on both experts, prior or personalized")  # fmt: skip


def add_networks(add: Add) -> None:
    """Add the options that `load_networks` reads, but for LoRAs and ControlNets."""
    add("--base", help="Stable Diffusion 1.x or 2.x: diffusers folder, hub id or .safetensors file")
    add("--model", dest="base", action=Renamed, help=argparse.SUPPRESS)
    add("--moa", help="folder with moa.safetensors and moa.json, here or gs://..., or a hub id, "
        "owner/name[@revision]; without it, plain SD")  # fmt: skip
    add("--allow-other-base", action="store_true", help="take --moa on a checkpoint that was "
        "fine-tuned from the one it was trained on")  # fmt: skip
    add("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16, or float32 on a CPU")
    add("--quantization", choices=("int8",), help="keep frozen kernels of the U-Net and of "
        "ControlNets in int8; default: in --dtype")  # fmt: skip
    add("--attention", default="auto", help="auto, xla, blocked, looped, flash, splash, cudnn "
        "(%(default)s)")  # fmt: skip
    add("--plugin", action="append", default=[], metavar="MODULE", help="import a module whose "
        "classes --moa may then name; only one that you trust")  # fmt: skip
    add("--variant", help='which weights of the folder to read, e.g. "fp16"')
    add("--image-encoder", help="CLIP folder or hub id; default: the one MoA was trained with")
    add("--tokenizer", help="folder or hub id; default: the base's own, or for a single file that "
        "of its kind from the hub")  # fmt: skip
    add("--prediction-type", choices=("epsilon", "v_prediction"), help="what the U-Net predicts; "
        "default: as the base says")  # fmt: skip


def _add_output(add: Add) -> None:
    add("--out", default="out", help="folder to write to (%(default)s/)")
    add("--batch-size", type=int, help="pictures at once; default: what the memory holds")
    add("--look", action="store_true", help="also figures, an animation and arrays of who drew "
        "where and attended to whom")  # fmt: skip
    add_no_cache(add)
    add("--no-credentials", action="store_true", help="do not sign that a model drew the pictures, "
        "which the extra moa_jax[credentials] does")  # fmt: skip
    add("--credentials-key", metavar="PEM", help="sign with your own key; default: the file that "
        "MOA_JAX_CREDENTIALS_KEY names, or one that is made for this run")  # fmt: skip
    add("--credentials-cert", metavar="PEM", help="its certificate and those of its issuers; "
        "default: MOA_JAX_CREDENTIALS_CERT")  # fmt: skip
    add("--from-json", metavar="FILE", help="draw again what a .json or .png of an earlier run "
        "says; options given here overrule it")  # fmt: skip


def add_no_cache(add: Add) -> None:
    """Add the option that keeps no compiled programs."""
    add("--no-cache", action="store_true", help="compile anew; otherwise compiled programs are "
        "kept in JAX_COMPILATION_CACHE_DIR, or in ~/.cache/moa_jax")  # fmt: skip
