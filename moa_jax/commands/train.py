# PYTHON_ARGCOMPLETE_OK
"""The command line of training: what to train, where to write, and how the command ends.

`moa_jax.training.run.train` is what it starts.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import moa_jax
from moa_jax.cli import command_name, run
from moa_jax.commands.completion import TRAIN, complete
from moa_jax.config import Config, flatten, known_configs, load_config, override

EXAMPLES = """\
CONFIG is a Python file that defines get_config(), such as configs/toy.py, or the name of one that
comes with moa_jax: {known}.

examples:
  {command} toy
  {command} sd15_imagefolder data.path=my_pictures train.output=runs/mine
  {command} sd15_ffhq mesh.preset=fsdp optimizer.accumulation=2 --print-config
  {command} configs/sd15_ffhq.py --plan v5e:2x4 --plan-presets all

On many hosts, start the same command on each, with one train.output that all of them see.

A run resumes from the newest checkpoint in train.output. SIGTERM and Ctrl-C save the step in flight
before they end it; Ctrl-C again stops at once. Exit codes: 0 trained; 1 the loss is not finite;
2 something in the command, the files or the data must be changed; 75 (EX_TEMPFAIL) preempted, or
another host is gone: start it (all) again to go on; 130 stopped by Ctrl-C.
"""


STOPPED = "stopped: the same command resumes from the newest checkpoint"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    complete(lambda _: make_parser(), TRAIN)
    options = make_parser().parse_intermixed_args(arguments)
    return run(lambda: work(options))


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    command = command_name("train.py")
    parser = argparse.ArgumentParser(
        prog=command.removeprefix("python "),
        description="Train MoA on captioned pictures with masks.",
        epilog=EXAMPLES.format(command=command, known=", ".join(known_configs())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", metavar="CONFIG", help="a file, or a name: see below")
    add("overrides", nargs="*", metavar="section.key=value", help="values other than the config's")
    add("--print-config", action="store_true", help="print every value and stop")
    add(
        "--distributed",
        action="store_true",
        help="fail without other hosts to join; unasked, they are joined where there are any",
    )
    add(
        "--plan",
        metavar="TOPOLOGY",
        help="compile the step for TPUs that are not here, e.g. v5e:4x4, say what it takes, and "
        "stop; reads no weights and no pictures",
    )
    add("--plan-presets", default="", metavar="dp,fsdp", help="plan these mesh presets, or all")
    add("--plan-json", type=Path, metavar="FILE", help="write the plan there too")
    add(
        "--encode",
        action="store_true",
        help="encode the pictures into data.encoded or data.latents and stop; many hosts then find "
        "it there",
    )
    add(
        "--no-cache",
        action="store_true",
        help="compile anew; otherwise compiled programs are kept in JAX_COMPILATION_CACHE_DIR, or "
        "in ~/.cache/moa_jax",
    )
    add("--version", action="version", version=f"moa_jax {moa_jax.__version__}")
    return parser


def work(options: argparse.Namespace) -> int | None:
    """Print the configuration or a plan, or train; training gives an exit code."""
    config = override(load_config(options.config), options.overrides)
    if options.print_config:
        return print_config(config)
    if options.plan:
        return plan(config, options.plan, options.plan_presets, options.plan_json)
    # From here on it takes long: the networks and jax are imported.
    from moa_jax.runtime import keep_programs
    from moa_jax.training import hosts
    from moa_jax.training.run import train

    keep_programs(not options.no_cache)

    def together() -> None:
        hosts.join(options.distributed)
        with hosts.watching():
            train(config, options.encode)

    return hosts.leave(run(together, STOPPED))


def plan(config: Config, topology: str, presets: str, file: Path | None) -> None:
    """Print what a training step takes on a TPU topology."""
    import jax

    from moa_jax.planning.plan import check_presets, plan_training
    from moa_jax.planning.report import as_json, rendered
    from moa_jax.training.loop import check_run

    jax.config.update("jax_platforms", "cpu")  # nothing runs: a device here is not to be claimed
    check_run(config)
    chosen, console = check_presets(presets), Console()
    with console.status("") as status:
        plans = plan_training(
            config, topology, chosen, lambda what: status.update(f"compiling: {what}")
        )
    if file:
        file.write_text(json.dumps([as_json(each) for each in plans], indent=2) + "\n")
    largest = ", for the largest pictures of data.buckets" if config.data.buckets else ""
    step = f"one training step on {topology}, of {config.train.steps}{largest}"
    console.print(step, highlight=False)
    console.print(rendered(plans, config.model.remat), highlight=False)


def print_config(config: Config) -> None:
    """Print every value as an override would set it."""
    values = flatten(config)
    width = max(map(len, values))
    shown = {name: "none" if value is None else value for name, value in values.items()}
    print("\n".join(f"{name:{width}} = {value}" for name, value in shown.items()))


if __name__ == "__main__":  # python -m moa_jax.commands.train
    sys.exit(main())
