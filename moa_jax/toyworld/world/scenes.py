"""Scenes of the toy world: one or two people in a context, their picture, caption and masks.

A scene is its people, its context and a seed for everything that neither of them says (who stands
where, how tall, what grows in the garden). The same scene gives the same picture. Captions use only
words of `moa_jax.backbone.tokenizer`. `write_data` writes the imagefolder layout of
`moa_jax.data.records`.
"""

import contextlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from moa_jax.toyworld.world.brush import Brush
from moa_jax.toyworld.world.descriptions import describe_person
from moa_jax.toyworld.world.people import WORDS, Look, draw_look, paint_person, vary_look
from moa_jax.toyworld.world.places import (
    LIGHTS,
    MIST,
    Context,
    draw_context,
    paint_place,
    paint_prop,
    paint_veil,
)

Random = np.random.Generator
Picture = UInt8[np.ndarray, "size size 3"]

SIZE = 64  # pixels a side, of everything that is trained on the world
DATA_SET = 12_000  # pictures that MoA trains on by default
LIT = 0.25  # how much of the time's light falls on people, who must stay recognisable
FOG_ON_PEOPLE = 0.12  # share of mist over people; what lies behind them has FOG
CHUNK = 16  # pictures that are written as one task
GROUP = 4  # scenes of the training stream that share words: see `training_scene`


@dataclass(frozen=True)
class Scene:
    """What is on a picture.

    Attributes:
        people: one or two, in the caption's order, which says nothing of who stands left.
        seed: of everything that neither the people nor the context determine.
    """

    people: tuple[Look, ...]
    context: Context
    seed: int

    @property
    def caption(self) -> str:
        """Name people and context, never an identity: "a man and a kid waving at sunset"."""
        people = " and ".join(f"a {look.word}" for look in self.people)
        return f"{people} {self.context.phrase()}"

    @property
    def description(self) -> str:
        """Name some attributes of the people too: "a man with a beard waving at sunset"."""
        # A stream of its own: the picture is drawn from another.
        random = np.random.default_rng([self.seed, 3])
        people = " and ".join(f"a {describe_person(look, random)}" for look in self.people)
        return f"{people} {self.context.phrase()}"


def draw_scene(
    random: Random, people: Sequence[Look] | None = None, context: Context | None = None
) -> Scene:
    """Draw a scene at random, except for what is given.

    Args:
        people: None means one person, or two with different words.
    """
    if people is None:
        words = random.permutation(WORDS)[: random.integers(1, 3)]
        people = [draw_look(random, str(word)) for word in words]
    context = context or draw_context(random)
    return Scene(tuple(people), context, int(random.integers(2**31)))


def training_scene(seed: int, index: int) -> Scene:
    """Give one scene of the endless stream that everything is trained on.

    The four scenes from index 4g on form a group. They have the same number of people with the same
    words, and each scene has a context of its own. The first two show the same looks; the other two
    show those looks changed in one attribute. So a group holds two renders of one identity and its
    nearest strangers.

    Args:
        seed: number of the stream; stream 0 is what is trained on.
    """
    group = np.random.default_rng([seed, index // GROUP, 0])
    words = group.permutation(WORDS)[: group.integers(1, 3)]
    looks = [draw_look(group, str(word)) for word in words]
    varied = [vary_look(group, look) for look in looks]
    own = np.random.default_rng([seed, index // GROUP, 1 + index % GROUP])
    return draw_scene(own, looks if index % GROUP < GROUP // 2 else varied)


def twin(index: int) -> int:
    """Number the other scene of the stream that shows the same people, in a context of its own."""
    return index ^ 1  # of a group's four scenes, the first two are twins, and the other two


def render(scene: Scene, size: int = SIZE) -> tuple[Picture, Bool[np.ndarray, "K size size"]]:
    """Draw a scene.

    Args:
        size: side in pixels.

    Returns:
        The picture, and for each person a mask of the pixels where the person is seen.
    """
    random = np.random.default_rng(scene.seed)
    context = scene.context
    base = paint_place(context, random, size)
    ground = float(random.uniform(0.93, 0.97))
    places = _stand(random, len(scene.people))
    people = [
        _person(look, x, ground, float(random.uniform(0.8, 0.9)) * tall, context, size)
        for look, (x, tall) in zip(scene.people, places, strict=True)
    ]
    prop = Brush(size)
    paint_prop(prop, context.prop, _beside(random, places), ground + 0.01)
    prop.tint(*_light(context))
    behind = context.prop in ("umbrella", "balloon")
    layers = [prop, *people] if behind else [*people, prop]
    picture = base.picture([*layers, paint_veil(context, random, size)])
    return picture, _seen(layers, people)


def render_portrait(look: Look, seed: int = 0, size: int = SIZE) -> Picture:
    """Draw a person standing alone before a plain wall: a photo to personalize pictures with.

    Args:
        seed: of the wall's colour.
        size: side in pixels.
    """
    wall, brush = Brush(size), Brush(size)
    grey = float(np.random.default_rng([seed, 2]).uniform(0.55, 0.9))
    wall.gradient((grey + 0.08,) * 3, (grey - 0.08,) * 3)
    paint_person(brush, look, 0.5, 0.96, 0.88)
    return wall.picture([brush])


def write_data(
    folder: Path,
    count: int,
    seed: int = 0,
    size: int = SIZE,
    on_pictures: Callable[[int], None] | None = None,
    workers: int = 1,
    paired: bool = False,
) -> None:
    """Write pictures of the training stream, a mask for each person, and `metadata.jsonl`.

    Args:
        folder: made if absent.
        seed: the same seed writes the same files; picture i does not depend on `count`.
        size: side of the square pictures in pixels, 64 or more for faces to be seen.
        on_pictures: called after some pictures with their number.
        workers: number of processes that draw; 1 means this process alone.
        paired: whether each person gets a reference: the same person on the twin picture. The
            pictures stay the same. The last of an odd number of pictures has no twin.
    """
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    parts = [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    paired_below = count if paired else 0
    write = partial(_write_part, folder, seed, size, paired_below)
    lines = []
    with contextlib.ExitStack() as stack:
        if workers > 1:
            spawned = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(workers, spawned))
            written = pool.map(write, parts)
        else:
            written = map(write, parts)
        for part in written:
            lines += part
            if on_pictures:
                on_pictures(len(part))
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def _write_part(folder: Path, seed: int, size: int, paired_below: int, numbers: range) -> list[str]:
    """Write some pictures and their masks; give their lines of `metadata.jsonl`.

    Args:
        paired_below: pictures of lower numbers are references of their twins.
    """
    lines = []
    for number in numbers:
        scene, name = training_scene(seed, number), f"{number:05d}"
        picture, masks = render(scene, size)
        Image.fromarray(picture).save(folder / f"{name}.png")
        subjects = []
        for i, (mask, look) in enumerate(zip(masks, scene.people, strict=True)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"masks/{name}_{i}.png")
            subjects.append({"mask": f"masks/{name}_{i}.png", "word": look.word})
            if twin(number) < paired_below:
                other = f"{twin(number):05d}"
                files = {"image": f"{other}.png", "mask": f"masks/{other}_{i}.png"}
                subjects[-1]["reference"] = files
        record = {"file_name": f"{name}.png", "text": scene.caption, "subjects": subjects}
        lines.append(json.dumps(record) + "\n")
    return lines


def write_subject(path: Path, seed: int = 0, size: int = 2 * SIZE) -> None:
    """Write the portrait of a person who is in no training data.

    Args:
        path: any format that Pillow writes; its folder is made if absent.
        seed: decides who it is; men, women and kids take turns.
        size: side in pixels.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_subject(seed, size).save(path)


def draw_subject(seed: int = 0, size: int = 2 * SIZE) -> Image.Image:
    """Draw what `write_subject` writes."""
    look = draw_look(np.random.default_rng([seed, 1]), subject_word(seed))
    return Image.fromarray(render_portrait(look, seed, size))


def subject_word(seed: int) -> str:
    """Name the word of the person that `draw_subject` draws."""
    return WORDS[seed % len(WORDS)]


def _stand(random: Random, people: int) -> list[tuple[float, float]]:
    """Give each person a place at random: x, and the height relative to a person alone."""
    if people == 1:
        return [(float(random.uniform(0.36, 0.64)), 1.0)]
    places = [0.27, 0.73] + random.uniform(-0.03, 0.03, 2)
    return [(float(x), 0.9) for x in random.permutation(places)]


def _beside(random: Random, places: Sequence[tuple[float, float]]) -> float:
    """Find room for a thing: between two people, or on the wider side of one."""
    if len(places) > 1:
        return 0.5
    x = places[0][0]
    side = -1 if x > 0.5 else 1
    return x + side * float(random.uniform(0.30, 0.36))


def _light(context: Context) -> tuple[tuple[float, float, float], float]:
    color, share = LIGHTS[context.time]
    return color, LIT * share


def _person(
    look: Look, x: float, ground: float, height: float, context: Context, size: int
) -> Brush:
    brush = Brush(size)
    paint_person(brush, look, x, ground, height, context.pose)
    brush.tint(*_light(context))
    if context.weather == "fog":
        brush.tint(MIST, FOG_ON_PEOPLE)
    return brush


def _seen(layers: Sequence[Brush], people: Sequence[Brush]) -> Bool[np.ndarray, "K size size"]:
    """Mark where each person is not hidden by a later layer."""
    covers = [brush.cover() for brush in layers]
    seen = []
    for person in people:
        place = next(i for i, layer in enumerate(layers) if layer is person)
        mask = covers[place].copy()
        for cover in covers[place + 1 :]:
            mask &= ~cover
        seen.append(mask)
    return np.stack(seen)
