"""The model card of MoA weights: README.md, with the front matter that the Hugging Face hub reads.

What the files say is taken from them. What they cannot say (licence, data, consent) is the author's
to say, and where the author says nothing, so does the card.
"""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from moa_jax import __version__
from moa_jax.backbone.hub import HUB_ID
from moa_jax.config import Config, flatten
from moa_jax.extension import is_name, parse_name
from moa_jax.hub.about import About
from moa_jax.method.weights import CARD_NAME, FORMAT_VERSION, WEIGHTS_NAME, MoaCard

CITATION = """\
```
@inproceedings{wang2024moa,
  title     = {MoA: Mixture-of-Attention for Subject-Context Disentanglement in Personalized
               Image Generation},
  author    = {Wang, Kuan-Chieh and Ostashev, Daniil and Fang, Yuwei and Tulyakov, Sergey and
               Aberman, Kfir},
  booktitle = {SIGGRAPH Asia},
  year      = {2024}
}
```"""
PAPER = "https://arxiv.org/abs/2404.11565"


@dataclass(frozen=True)
class Facts:
    """What the files themselves say.

    Attributes:
        parameters: how many numbers `moa.safetensors` holds.
        size: its size in bytes.
        table: an evaluation, as Markdown; None if there is none.
    """

    card: MoaCard
    parameters: int
    size: int
    table: str | None = None


def card_data(card: MoaCard, about: About, tags: list[str]) -> ModelCardData:
    """Make the front matter."""
    base = base_id(card, about)
    return ModelCardData(
        license=about.licence,
        license_name=about.licence_name,
        license_link=about.licence_link,
        library_name="moa_jax",
        pipeline_tag="text-to-image",
        base_model=base,
        datasets=list(about.datasets) or None,
        tags=tags,
        **({"base_model_relation": "adapter"} if base else {}),
    )


def base_id(card: MoaCard, about: About) -> str | None:
    """Give the hub id of the base; None where the weights name a folder, or nothing tells."""
    if about.base_model:
        return about.base_model
    name = card.identity.base
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def own_paths(card: MoaCard) -> dict[str, str]:
    """List the paths of the author's machine that `moa.json` holds, by their key."""
    named = {**flatten(card.config), "identity.base": card.identity.base}
    named["identity.image_encoder"] = card.identity.image_encoder
    return {key: value for key, value in named.items() if _is_path(value)}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("/", "~"))


def _shown(value: Any) -> Any:
    """Shorten a path of the author's machine, which means nothing to others, to its last name."""
    return f".../{Path(value).name}" if _is_path(value) else value


def card_text(facts: Facts, about: About) -> str:
    """Write the card below its front matter."""
    base = base_id(facts.card, about) or str(_shown(facts.card.identity.base))
    parts = [
        _summary(facts, about, base),
        _usage(facts.card.config, about, base),
        _base(facts.card, about, base),
        "## Training data\n\n" + (about.data or "Not stated: ask the author."),
        _training(facts.card),
        "## Evaluation\n\n"
        + (facts.table or "Nothing was measured, or the author gave no numbers."),
        _limits(facts.card.config),
        _people(about),
        _licence(about),
        _versions(),
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: dict[str, str], heads: str = "| | |") -> str:
    return "\n".join([heads, "| --- | --- |", *(f"| {key} | {rows[key]} |" for key in rows)])


def _summary(facts: Facts, about: About, base: str) -> str:
    many = facts.card.config.method.max_subjects
    title = about.repo_id.split("/")[1] if about.repo_id else f"MoA weights for {base}"
    licence = about.licence_name or about.licence or "not stated"
    together = f"up to {many} in one picture" if many > 1 else "one in a picture"
    size = f"{facts.parameters / 1e6:,.1f} million numbers, {facts.size / 1e6:,.1f} MB"
    return f"""\
# {title}

Weights of [Mixture-of-Attention]({PAPER}) (MoA) for `{base}`. With them, Stable Diffusion draws \
people from a photo of each, {together}, in the scene that a prompt describes. They are an \
adapter: the base model's own weights are not here, and stay as they are. The program that draws \
and trains is `moa_jax`, in JAX and Flax.

""" + _table(
        {
            "base model": f"`{base}`",
            "photos in a picture": f"1 to {many}",
            "trained on pictures of": _size(facts.card.config),
            "weights": f"{size}, safetensors",
            "licence": f"`{licence}`",
        }
    )


def _usage(config: Config, about: About, base: str) -> str:
    source = about.repo_id or "path/to/this/folder"
    prompt = "a man <|image|> in the snow"
    plugin, imported, warning, pinned = "", "", "", ""
    if about.repo_id:
        pinned = f" `{source}@REVISION` names a branch, a tag or a commit of these weights."
    if is_name(config.method.mixture):
        module = parse_name(config.method.mixture, "method.mixture").module
        plugin, imported = f" --plugin {module}", f"import {module}\n"
        warning = (
            f"\n\nThey need code that does not come with moa_jax, the module `{module}`. Read it "
            "before you import it: moa_jax runs no code that a download names by itself."
        )
    return f"""\
## How to use

In Python, with moa_jax {__version__} or newer:

```python
{imported}from moa_jax import Pipeline

pipe = Pipeline.from_pretrained("{base}", moa="{source}")
result = pipe("{prompt}", subjects=["him.jpg"])
result.images[0].save("snow.png")
```

or from the command line:

```sh
python sample.py --base {base} --moa {source}{plugin} \\
    --prompt "{prompt}" --subject him.jpg --out out
```

Write `<|image|>` after each word that stands for a person in a photo, and give the photos in the \
same order.{pinned}{warning}"""


def _base(card: MoaCard, about: About, base: str) -> str:
    encoder = card.config.model.image_encoder
    lines = [f"The weights were trained on `{base}` and belong to it alone."]
    if base_id(card, about) is None:
        lines = [
            f"The weights were trained on a folder, `{base}`, and belong to the networks in it "
            "alone; the author names no model on the Hugging Face hub with the same networks."
        ]
    if encoder:
        lines.append(f"The photos are read by the image encoder `{_shown(encoder)}`.")
    lines.append(
        "On another base they are refused, by the fingerprints below. A checkpoint that was "
        "fine-tuned from this base can be tried with `allow_other_base=True` "
        "(`--allow-other-base`)."
    )
    prints = {key: f"`{value[:16]}`" for key, value in card.identity.fingerprints.items()}
    return (
        "## Base model\n\n"
        + " ".join(lines)
        + "\n\n"
        + _table(prints, "| network | fingerprint (SHA-256) begins with |")
    )


def _training(card: MoaCard) -> str:
    config, method = card.config, card.config.method
    optimizer, layers = config.optimizer, method.image_encoder_layers
    if method.mixture != "moa":
        learns = "what the variant adds"
    elif method.router == "personalized":
        learns = "the personalized expert and the prompt network, without a router"
    else:
        learns = "the personalized expert, the router and the prompt network"
    if layers:
        learns += f", and the last {layers} layers of the image encoder"
    rates = f"AdamW, {optimizer.learning_rate:g}"
    if optimizer.muon_learning_rate is not None:
        rates = f"Muon, {optimizer.muon_learning_rate:g}, for matrices; {rates}, for the rest"
    short = {
        "steps": f"{card.step:,} of {config.train.steps:,}",
        "pictures a step": f"{config.train.batch_size:,}",
        "what learned": learns,
        "method": f"`{method.mixture}`",
        "optimizer and learning rate": rates,
        "schedule": f"{optimizer.schedule}, {optimizer.warmup_steps} steps of warm-up",
        "average of the weights (EMA)": str(optimizer.ema_decay or "none"),
        "weight of the router loss": f"{method.router_loss_weight:g} ({method.router_loss})",
        "weight of the object loss": f"{method.object_loss_weight:g}",
        "masked loss": f"{100 * method.mask_probability:g} % of the pictures, on the people alone",
        "augmentation": "yes" if config.data.augment else "none",
        "seed": str(config.train.seed),
    }
    if config.model.moa:
        short["began with"] = f"the MoA weights `{_shown(config.model.moa)}`"
    lines = [f"{key} = {json.dumps(_shown(value))}" for key, value in flatten(config).items()]
    return (
        "## Training\n\n"
        + _table(short)
        + "\n\n<details><summary>Every value of the configuration</summary>\n\n```\n"
        + "\n".join(lines).replace("```", "'''")
        + "\n```\n\n</details>"
    )


def _size(config: Config) -> str:
    square = f"{config.data.resolution} x {config.data.resolution} pixels"
    return f"{square}, or as many in shapes of up to 2:1" if config.data.buckets else square


def _limits(config: Config) -> str:
    return f"""\
## Limits

- A picture resembles a photo; it is no likeness to rely on. It proves nothing about whom it \
shows, and must not be used to recognise or to verify anybody.
- Photos, people and scenes unlike those of the training data may come out worse, and so may \
pictures of another size than {_size(config)}.
- With several photos, features of one person can appear on another.
- The base model's faults and biases are there too, and so are those of the training data, which \
may serve some groups of people worse than others."""


def _people(about: About) -> str:
    consent = about.consent or (
        "The author has not said whether the people in the training pictures agreed to this use."
    )
    return f"""\
## Consent and responsible use

{consent}

These weights can draw people who exist. Whoever draws with them is asked to

- use only photos of people who agreed to it, and of children only with their guardians' agreement;
- draw nobody naked, in sexual scenes, humiliated, or doing and saying what harms them;
- deceive nobody: say that a picture was made by a machine wherever it could be taken for a photo. \
Each PNG of `sample.py` holds a record of how it was drawn, which other programs may remove;
- keep to the law on likeness, data protection and synthetic pictures where they are, and delete a \
photo when the person in it asks for that."""


def _licence(about: About) -> str:
    if about.licence is None:
        said = "Not stated: without a licence nobody may use these weights. Ask the author."
    elif about.licence_name:
        said = f"[{about.licence_name}]({about.licence_link}), as the author states."
    else:
        said = f"`{about.licence}`, as the author states."
    return (
        f"## Licence\n\n{said} The base model, the image encoder and the training data have "
        "licences of their own: keep to them too."
    )


def _versions() -> str:
    made = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "huggingface_hub"))
    return f"""\
## Versions

`{WEIGHTS_NAME}` and `{CARD_NAME}` have format {FORMAT_VERSION} and belong together: `{CARD_NAME}` \
is refused beside other weights. No file here is a pickle, and none runs code. This card was \
written by moa_jax {__version__}, with {made}.

{CITATION}"""
