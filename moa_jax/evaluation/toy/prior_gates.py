"""What the toy world's prior must reach before MoA is built on it: numbers and bars.

It must draw each attribute about as often as the world has it, and it must draw what the words ask
for.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from moa_jax.cli import track
from moa_jax.evaluation.toy import metrics
from moa_jax.evaluation.toy.drawing import SAMPLER, Pictures
from moa_jax.evaluation.toy.gates import BATCH, SEED, Gate, held_out
from moa_jax.evaluation.toy.protocol import Protocol, Trial, redraw
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.sampling.request import make_request, stack
from moa_jax.sampling.settings import Settings
from moa_jax.toyworld.readers.reading import PersonReading, Readers, Reading
from moa_jax.toyworld.world.descriptions import color_word, phrases
from moa_jax.toyworld.world.people import HAIR_STYLES, HATS, Look

SHARES = {"hair_style": HAIR_STYLES, "hat": HATS, "beard": (True,)}  # values that are counted


def prior_gates(
    pipeline: Pipeline, readers: Readers, count: int, protocol: Protocol
) -> tuple[list[Gate], Pictures]:
    """Measure what the prior draws for plain captions, and for captions that name an attribute.

    Returns:
        The gates, and some of the pictures, half of them from each kind of caption.
    """
    trials = held_out(4, count)
    plain = draw(pipeline, [trial.caption for trial in trials], protocol)
    readings = readers.read(plain)
    people = find_each(readings, trials)
    # The world's shares come from renders of the same trials, through the same readers.
    world = find_each(readers.read(redraw(trials)), trials)
    gates = [
        Gate("prior", "prompt", metrics.prompt_consistency(readings, trials)["overall"], 0.97),
        *(
            Gate(
                "prior",
                f"{name}={value}, off the world's share",
                abs(share(people, name, value) - share(world, name, value)),
                0.03,
                most=True,
            )
            for name, values in SHARES.items()
            for value in values
        ),
    ]
    random = np.random.default_rng([SEED, 5])
    asked = [choose(random, trial.people[0]) for trial in trials]
    captions = [
        trial.caption.replace(trial.people[0].word, f"{trial.people[0].word} {phrase}", 1)
        for trial, (_, phrase) in zip(trials, asked, strict=True)
    ]
    described = draw(pipeline, captions, protocol)
    obeyed: dict[str, list[bool]] = {}
    found = find_each(readers.read(described), trials)
    for person, trial, (name, _) in zip(found, trials, asked, strict=True):
        obeyed.setdefault(name, []).append(obeys(person, name, trial.people[0]))
    gates += [
        Gate("prior", f"{name} asked for by words", metrics.mean(obeyed[name]), 0.90)
        for name in sorted(obeyed)
    ]
    return gates, np.concatenate([plain[:BATCH], described[:BATCH]])


def find_each(readings: Sequence[Reading], trials: Sequence[Trial]) -> list[PersonReading | None]:
    """Find the person on each picture; every trial asks for one person."""
    return [metrics.find(*pair)[0] for pair in zip(readings, trials, strict=True)]


def share(people: Sequence[PersonReading | None], name: str, value: Any) -> float:
    """Give the share of people with a value, among those whose attribute can be seen."""
    # A hat hides the style of hair, and only men have beards.
    seen = [
        person
        for person in people
        if person is not None
        and (name != "hair_style" or person.attributes["hat"] == "none")
        and (name != "beard" or person.word == "man")
    ]
    return metrics.mean(person.attributes[name] == value for person in seen)


def choose(random: np.random.Generator, look: Look) -> tuple[str, str]:
    """Choose an attribute that a caption can name, and its phrase."""
    said = {k: v for k, v in phrases(look).items() if k != "trousers"}
    name = str(random.choice(list(said)))
    return name, said[name]


def obeys(person: PersonReading | None, name: str, look: Look) -> bool:
    """Say whether a person has what a phrase names; shirts agree if the colour's word does."""
    if person is None:
        return False
    if name == "shirt":
        return color_word(person.attributes[name]) == color_word(look.shirt)
    return person.attributes[name] == getattr(look, name)


def draw(pipeline: Pipeline, captions: Sequence[str], protocol: Protocol) -> Pictures:
    """Draw one picture for each caption."""
    side, channels = (pipeline.base.unet.config[key] for key in ("sample_size", "in_channels"))
    settings = Settings(protocol.steps, SAMPLER, protocol.guidance_scale)
    start = jax.random.key(SEED)
    pictures = []
    for first in track(range(0, len(captions), BATCH), "drawing"):
        part = captions[first : first + BATCH]
        rows = [
            make_request(pipeline.base.tokenizer, caption, [], "", image_size=None, max_subjects=0)
            # Batches of one size share one compiled program.
            for caption in (*part, *part[-1:] * (BATCH - len(part)))
        ]
        keys = jax.vmap(partial(jax.random.fold_in, start))(first + np.arange(BATCH))
        latents = jax.vmap(lambda key: jax.random.normal(key, (side, side, channels)))(keys)
        result = pipeline.draw(stack(rows), latents, keys, settings)
        pictures += [np.asarray(image) for image in result.images[: len(part)]]
    return np.stack(pictures)
