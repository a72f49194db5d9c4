"""Small drawn pictures of people in places, captioned and masked, for `make demo` and the tests.

A person is a word (man, woman, kid) and a look (skin, hair, shirt, ...) that no caption tells: what
MoA has to take from the subject's picture. `write_data` writes the imagefolder layout of
`moa_jax.data.records`; `write_subject` a portrait to personalize with. Drawn at four times the size
and reduced. Captions use only words of `moa_jax.toyworld.tokenizer`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLING = 4
SKINS = ("#fbe3d0", "#f2cba6", "#dba878", "#b57f50", "#8a5a36", "#5d3a22")
HAIRS = ("#1c1611", "#4a2f1b", "#7a4a21", "#c08a3e", "#ecd48a", "#b4471f", "#9a9a9e")
SHIRTS = ("#d7263d", "#f46036", "#f2b705", "#2ca58d", "#1b6ca8", "#5f4bb6", "#e7e7ea", "#2b2d42")
TROUSERS = ("#22304a", "#3d3d3d", "#6b4f3a", "#4f6f8f")
HEAD_SHARE = {"man": 0.36, "woman": 0.36, "kid": 0.44}  # of the height
HATS = ("#8c1c13", "#1d4e89", "#f4d35e", "#3a5a40")

Random = np.random.Generator


@dataclass(frozen=True)
class Look:
    """What makes a person that person."""

    word: str
    skin: str
    hair: str
    shirt: str
    trousers: str
    hat: str | None
    glasses: bool


class Brush:
    """Draws in units of the picture's side: (0, 0) is the upper left, (1, 1) the lower right."""

    def __init__(self, image: Image.Image):
        self._draw, self._side = ImageDraw.Draw(image), image.width

    def disc(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Fill an ellipse around (x, y)."""
        self._draw.ellipse(self._around(x, y, width, height), color)

    def half_disc(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Fill the upper half of an ellipse around (x, y)."""
        self._draw.pieslice(self._around(x, y, width, height), 180, 360, color)

    def box(
        self, x: float, y: float, width: float, height: float, color: str, corner: float = 0.0
    ) -> None:
        """Fill a rectangle of centre x and top y; `corner` rounds its corners."""
        area = self._around(x, y + height / 2, width, height)
        self._draw.rounded_rectangle(area, corner * self._side, color)

    def shape(self, points: list[tuple[float, float]], color: str) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * self._side, y * self._side) for x, y in points], color)

    def arc(self, x: float, y: float, width: float, color: str, start: int, end: int) -> None:
        """Draw part of a circle's outline around (x, y), clockwise from 3 o'clock in degrees."""
        thick = max(1, round(width / 7 * self._side))
        self._draw.arc(self._around(x, y, width, width), start, end, color, thick)

    def _around(self, x: float, y: float, width: float, height: float) -> list[float]:
        edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return [edge * self._side for edge in edges]


def write_data(folder: Path, count: int, seed: int = 0, size: int = 96) -> None:
    """Write pictures, a mask for each person, and `metadata.jsonl`.

    Args:
        folder: made if absent.
        seed: the same seed writes the same files; picture i does not depend on `count`.
        size: side of the square pictures in pixels, 64 or more for faces to be seen.
    """
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        image, masks, caption, words = _scene(random, size)
        name = f"{number:05d}"
        image.save(folder / f"{name}.png")
        subjects = []
        for i, (mask, word) in enumerate(zip(masks, words, strict=True)):
            mask.save(folder / f"masks/{name}_{i}.png")
            subjects.append({"mask": f"masks/{name}_{i}.png", "word": word})
        record = {"file_name": f"{name}.png", "text": caption, "subjects": subjects}
        lines.append(json.dumps(record) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def write_subject(path: Path, seed: int = 0, size: int = 128) -> None:
    """Write a portrait of one person before a plain wall, to personalize pictures with.

    Args:
        path: any format that Pillow writes; its folder is made if absent.
        seed: who: a man, a woman and a kid by turns.
        size: side in pixels.
    """
    random = np.random.default_rng([seed, 1])
    word = list(HEAD_SHARE)[seed % len(HEAD_SHARE)]
    image = _gradient(size * OVERSAMPLING, "#e9ecef", "#cfd6dd")
    height = 0.54 / HEAD_SHARE[word]  # the head fills half of the picture
    _draw_person(Brush(image), _look(random, word), 0.5, height + 0.22, height)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((size, size), Image.BOX).save(path)


def _scene(
    random: Random, size: int
) -> tuple[Image.Image, list[Image.Image], str, tuple[str, ...]]:
    """Draw one or two people in a place; a mask is what is seen of its person."""
    place = str(random.choice(list(PLACES)))
    image = Image.new("RGB", (size * OVERSAMPLING,) * 2)
    PLACES[place](image, random)
    words = tuple(random.permutation(list(HEAD_SHARE))[: random.integers(1, 3)].tolist())
    centres = (random.uniform(0.35, 0.65),) if len(words) == 1 else (0.28, 0.72)
    covers = []
    for word, centre in zip(words, centres, strict=True):
        layer = Image.new("RGBA", image.size)
        height = random.uniform(0.78, 0.9) * (0.72 if word == "kid" else 1.0)
        x, ground = centre + random.uniform(-0.05, 0.05), random.uniform(0.95, 0.99)
        _draw_person(Brush(layer), _look(random, word), x, ground, height)
        image.paste(layer, mask=layer.getchannel("A"))
        cover = np.asarray(layer.getchannel("A").resize((size, size), Image.BOX)) > 127
        covers = [earlier & ~cover for earlier in covers] + [cover]
    masks = [Image.fromarray(cover.astype(np.uint8) * 255) for cover in covers]
    people = " and ".join(f"a {word}" for word in words)
    deed = random.choice(("", " standing", " smiling"))
    return image.resize((size, size), Image.BOX), masks, f"{people}{deed} {place}", words


def _look(random: Random, word: str) -> Look:
    def one_of(colors: tuple[str, ...]) -> str:
        return str(random.choice(colors))

    return Look(
        word,
        one_of(SKINS),
        one_of(HAIRS),
        one_of(SHIRTS),
        one_of(TROUSERS),
        one_of(HATS) if random.random() < 0.25 else None,
        bool(random.random() < 0.25),
    )


def _draw_person(brush: Brush, look: Look, x: float, ground: float, height: float) -> None:
    """Draw a person of large head, feet at (x, ground); `height` without hair and hat."""
    h = height
    head = h * HEAD_SHARE[look.word]
    face, neck = ground - h + head / 2, ground - h + head * 0.94
    waist = ground - h * 0.26
    broad = h * {"man": 0.34, "woman": 0.28, "kid": 0.29}[look.word]
    if look.word == "woman":  # long hair falls behind the shoulders
        brush.box(x, face - head * 0.2, head * 1.12, head * 1.05, look.hair, head * 0.4)
    for side in (-1, 1):
        brush.box(x + side * h * 0.075, waist - h * 0.04, h * 0.12, h * 0.28, look.trousers)
        brush.box(
            x + side * h * 0.085, ground - h * 0.045, h * 0.15, h * 0.045, "#2a2522", h * 0.02
        )
        arm = x + side * (broad / 2 + h * 0.015)
        brush.box(arm, neck + h * 0.03, h * 0.095, waist - neck - h * 0.06, look.shirt, h * 0.045)
        brush.disc(arm, waist - h * 0.03, h * 0.085, h * 0.085, look.skin)
    if look.word == "woman":
        hem = broad * 0.75
        brush.shape(
            [
                (x - broad * 0.4, neck + h * 0.06),
                (x + broad * 0.4, neck + h * 0.06),
                (x + hem, waist + h * 0.1),
                (x - hem, waist + h * 0.1),
            ],
            look.shirt,
        )
    brush.box(x, neck, broad, waist - neck, look.shirt, h * 0.07)
    brush.box(x, neck - head * 0.1, head * 0.3, head * 0.18, look.skin, head * 0.06)
    _draw_head(brush, look, x, face, head)


def _draw_head(brush: Brush, look: Look, x: float, y: float, size: float) -> None:
    brush.disc(x, y, size * 0.92, size, look.skin)
    brush.half_disc(x, y - size * 0.08, size * 0.98, size * 0.92, look.hair)
    if look.word == "man":  # a parting and sideburns
        for side in (-1, 1):
            brush.box(x + side * size * 0.42, y - size * 0.1, size * 0.1, size * 0.2, look.hair)
    elif look.word == "kid" and not look.hat:  # a tuft
        tuft = [(-0.2, -0.48), (-0.08, -0.66), (0.02, -0.52), (0.14, -0.68), (0.22, -0.46)]
        brush.shape([(x + size * a, y + size * b) for a, b in tuft], look.hair)
    elif look.word == "woman":
        for side in (-1, 1):
            brush.disc(x + side * size * 0.43, y + size * 0.08, size * 0.2, size * 0.6, look.hair)
    brush.box(x, y - size * 0.1, size * 0.66, size * 0.2, look.skin, size * 0.08)
    for side in (-1, 1):
        brush.disc(x + side * size * 0.18, y + size * 0.04, size * 0.1, size * 0.12, "#231f20")
        if look.glasses:
            brush.arc(x + side * size * 0.18, y + size * 0.04, size * 0.28, "#30343f", 0, 360)
    brush.arc(x, y + size * 0.16, size * 0.32, "#a23b3b", 20, 160)
    if look.hat:
        brush.half_disc(x, y - size * 0.26, size * 0.84, size * 0.78, look.hat)
        brush.box(x, y - size * 0.3, size * 1.2, size * 0.1, look.hat, size * 0.05)


def _gradient(side: int, top: str, bottom: str) -> Image.Image:
    shade = Image.linear_gradient("L").resize((side, side))
    size = (side, side)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), shade)


def _sky(image: Image.Image, top: str, bottom: str) -> Brush:
    image.paste(_gradient(image.width, top, bottom))
    return Brush(image)


def _beach(image: Image.Image, random: Random) -> None:
    brush = _sky(image, "#4aa8e0", "#d8f0fb")
    brush.disc(random.uniform(0.1, 0.9), 0.16, 0.15, 0.15, "#fff3b0")
    brush.box(0.5, 0.5, 1.0, 0.22, "#1f8fb8")
    brush.box(0.5, 0.62, 1.0, 0.05, "#58c0d6")
    brush.disc(0.5, 1.1, 1.9, 0.88, "#f1dca7")


def _snow(image: Image.Image, random: Random) -> None:
    brush = _sky(image, "#a9c3dd", "#eaf2f8")
    for x in random.uniform(0.0, 1.0, 3):
        brush.shape([(x - 0.35, 0.75), (x, random.uniform(0.3, 0.45)), (x + 0.35, 0.75)], "#bfd0e0")
    brush.disc(0.3, 1.0, 1.6, 0.75, "#ffffff")
    brush.disc(0.9, 1.05, 1.2, 0.75, "#f3f8fc")
    for x, y in random.uniform(0.0, 1.0, (40, 2)):
        brush.disc(x, y, 0.018, 0.018, "#ffffff")


def _forest(image: Image.Image, random: Random) -> None:
    brush = _sky(image, "#bfe3c5", "#e7f5dc")
    for depth, color in ((0.0, "#6fae7d"), (0.08, "#3f8a57"), (0.16, "#226b43")):
        for x in np.linspace(0.0, 1.0, 5) + random.uniform(-0.1, 0.1, 5):
            top = random.uniform(0.02, 0.15) + depth
            brush.box(x, 0.6, 0.035, 0.25, "#5b3f2a")
            for step in range(3):
                y, wide = top + 0.15 * step, 0.07 + 0.035 * step
                brush.shape([(x - wide, y + 0.24), (x, y), (x + wide, y + 0.24)], color)
    brush.disc(0.5, 1.12, 2.0, 0.7, "#4f8f4a")


def _skyline(brush: Brush, random: Random, walls: tuple[str, ...], window: str) -> None:
    for x in np.linspace(0.04, 0.96, 6):
        top = random.uniform(0.12, 0.45)
        brush.box(x, top, 0.16, 0.8 - top, str(random.choice(walls)))
        for y in np.arange(top + 0.04, 0.76, 0.08):
            for offset in (-0.04, 0.0, 0.04):
                if random.random() < 0.7:
                    brush.box(x + offset, y, 0.022, 0.04, window)


def _city(image: Image.Image, random: Random) -> None:
    brush = _sky(image, "#8ec5ea", "#f3f7fa")
    _skyline(brush, random, ("#b9a394", "#9aa7b5", "#c9b18c", "#8d99a6"), "#eaf4fb")
    brush.box(0.5, 0.78, 1.0, 0.22, "#767b83")
    brush.box(0.5, 0.78, 1.0, 0.03, "#c8ccd1")


def _night(image: Image.Image, random: Random) -> None:
    brush = _sky(image, "#0b1437", "#33407a")
    for x, y in random.uniform(0.0, 1.0, (30, 2)):
        brush.disc(x, y * 0.5, 0.01, 0.01, "#f8f4d8")
    brush.disc(random.uniform(0.15, 0.85), 0.14, 0.13, 0.13, "#f5efc4")
    _skyline(brush, random, ("#1d2547", "#252e57", "#161d3a"), "#ffd66b")
    brush.box(0.5, 0.78, 1.0, 0.22, "#20232f")


def _sunset(image: Image.Image, random: Random) -> None:
    brush = _sky(image, "#f0653a", "#ffe0a3")
    brush.disc(random.uniform(0.2, 0.8), 0.45, 0.24, 0.24, "#fff0b8")
    for x in random.uniform(0.0, 1.0, 3):
        brush.shape([(x - 0.4, 0.85), (x, random.uniform(0.3, 0.5)), (x + 0.4, 0.85)], "#8c4a5c")
    brush.disc(0.5, 1.15, 2.0, 0.75, "#5a3550")


# What a caption says of the place -> how it is drawn.
PLACES: dict[str, Callable[[Image.Image, Random], None]] = {
    "on the beach": _beach,
    "in the snow": _snow,
    "in the forest": _forest,
    "in the city": _city,
    "in the city at night": _night,
    "near a mountain at sunset": _sunset,
}
