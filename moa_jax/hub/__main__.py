"""`python -m moa_jax.hub`: publish MoA weights on the Hugging Face hub.

    python -m moa_jax.hub card FOLDER [--licence L] [--data "..."]    print the model card
    python -m moa_jax.hub push FOLDER owner/name --licence L --data "..." [--private] [--create-pr]

Only `moa.safetensors`, `moa.json` and the card are pushed, never previews or checkpoints. Exit code
0: done; 2: something must be changed, or the hub refuses; 130: stopped by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import moa_jax  # before jax: it settles what jax reads when it is imported

# isort: split
from moa_jax.cli import run
from moa_jax.extension import import_plugin
from moa_jax.hub.about import LICENCES, About
from moa_jax.hub.card import base_id, own_paths
from moa_jax.hub.weights import MoAWeights

EXAMPLES = """\
examples:
  python -m moa_jax.hub card runs/sd15_ffhq
  python -m moa_jax.hub push runs/sd15_ffhq owner/moa-sd15 --private \\
      --licence creativeml-openrail-m --data "FastComposer's release of FFHQ: 70,000 portraits."

The hub knows you by HF_TOKEN, or after `hf auth login`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(arguments)
    return run(lambda: {"push": _push, "card": _card}[options.do](options))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.hub",
        description="Publish MoA weights on the Hugging Face hub.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"moa_jax {moa_jax.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="do", required=True)
    card = commands.add_parser("card", help="print the model card, and push nothing")
    push = commands.add_parser("push", help="push weights and model card in one commit")
    for command in (card, push):
        command.add_argument(
            "folder", help="of moa.safetensors and moa.json, or gs://..., or a hub id"
        )
    card.add_argument(
        "--repo", dest="repo_id", metavar="owner/name", help="as it will be pushed to"
    )
    push.add_argument("repo_id", metavar="owner/name", help="made if it is not there")
    for command in (card, push):
        _add_about(command.add_argument_group("what the card says").add_argument)
        command.add_argument("--plugin", action="append", default=[], metavar="MODULE",
            help="import the module of a variant that the weights name")  # fmt: skip
    push.add_argument("--private", action="store_true", default=None, help="make it private")
    push.add_argument("--branch", help="made if it is not there; default: the main branch")
    push.add_argument("--create-pr", action="store_true", help="propose the commit to the owner")
    push.add_argument("--message", default="Push MoA weights", help="of the commit (%(default)s)")
    return parser.parse_args(arguments)


def _add_about(add: Any) -> None:
    add("--licence", "--license", metavar="ID", help=f"of the weights; yours to choose: {LICENCES}")
    add("--licence-name", metavar="NAME", help="with --licence other")
    add("--licence-link", metavar="URL", help="with --licence other")
    add("--data", help="what they were trained on: source, how many pictures, whose")
    add("--consent", help="what is known about the consent of the people in these pictures")
    add("--dataset", dest="datasets", action="append", default=[], metavar="owner/name",
        help="id of a data set on the hub")  # fmt: skip
    add(
        "--base-model",
        metavar="owner/name",
        help="the base's hub id, if it was trained on a folder",
    )
    add("--evaluation", metavar="FILE", help="toy.json, evaluation.json or a row's record of the "
        "study, or Markdown; default: FOLDER/evaluation.json, if of these weights")  # fmt: skip


def _about(options: argparse.Namespace) -> dict[str, Any]:
    names = "licence licence_name licence_link data consent base_model evaluation repo_id".split()
    return {name: getattr(options, name) for name in names} | {"datasets": tuple(options.datasets)}


def _load(options: argparse.Namespace, about: About) -> MoAWeights:
    for module in options.plugin:
        import_plugin(module)
    weights = MoAWeights.from_pretrained(options.folder)
    if paths := own_paths(weights.card):
        listed = ", ".join(f"{key}={value}" for key, value in paths.items())
        _note(f"moa.json, which others will see, names these paths of your machine: {listed}")
    if base := base_id(weights.card, about):
        _note(f"the card says base_model: {base}; another one: --base-model owner/name")
    else:
        _note("the card names no base model of the hub: --base-model owner/name, if it is there")
    return weights


def _card(options: argparse.Namespace) -> None:
    about = _about(options)
    print(_load(options, About(**about)).generate_model_card(**about))
    for name in ("licence", "data"):
        if not about[name]:
            _note(f"push will ask for --{name}")


def _push(options: argparse.Namespace) -> None:
    about = _about(options)
    About(**about).require_complete()  # before anything is downloaded
    url = _load(options, About(**about)).push_to_hub(
        private=options.private,
        branch=options.branch,
        create_pr=options.create_pr,
        commit_message=options.message,
        **about,
    )
    print(getattr(url, "pr_url", None) or url)


def _note(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
