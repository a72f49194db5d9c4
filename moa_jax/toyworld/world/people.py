"""The people of the toy world: who they are, and how they are drawn.

A `Look` is an identity: what no caption tells, and what MoA has to take from a picture. Its colours
are continuous, so two people drawn independently never agree. People have large heads, so that 64
pixels are enough to tell two of them apart.
"""

import colorsys
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from moa_jax.toyworld.world.brush import Brush, Color, blend, shade

Random = np.random.Generator

WORDS = ("man", "woman", "kid")
HAIR_STYLES = ("short", "curly", "spiky", "long", "bun")
BELOW_HATS = ("curly", "long")  # hair styles whose colour is seen under a hat
HATS = ("none", "cap", "beanie", "brimmed")
POSES = ("standing", "waving", "cheering")
KINDS: dict[str, tuple[Any, ...]] = {  # attributes with a few possible values
    "word": WORDS,
    "hair_style": HAIR_STYLES,
    "hat": HATS,
    "glasses": (False, True),
    "beard": (False, True),
}
COLORS = ("skin", "hair", "hat_color", "shirt", "trousers")

LIGHT_SKIN, DARK_SKIN = (0.99, 0.87, 0.76), (0.33, 0.20, 0.12)
NATURAL_HAIR: tuple[Color, ...] = (
    (0.10, 0.08, 0.07),
    (0.36, 0.22, 0.12),
    (0.62, 0.38, 0.15),
    (0.95, 0.82, 0.48),
    (0.75, 0.75, 0.77),
)
HEAD = {"man": 0.43, "woman": 0.43, "kid": 0.5}  # height of the head, as a share of the person's
BREADTH = {"man": 0.33, "woman": 0.27, "kid": 0.30}  # of the shoulders, as a share of the height
STATURE = {"man": 1.0, "woman": 0.95, "kid": 0.78}  # height, as a share of a man's
DARK = (0.12, 0.10, 0.11)


@dataclass(frozen=True)
class Look:
    """What makes a person that person."""

    word: str
    skin: Color
    hair: Color
    hair_style: str
    eyes: Color
    glasses: bool
    beard: bool
    hat: str
    hat_color: Color
    shirt: Color
    trousers: Color


def draw_look(random: Random, word: str | None = None) -> Look:
    """Draw a person's look at random.

    Args:
        word: what a caption calls the person; None means any word.
    """
    word = word or str(random.choice(WORDS))
    return Look(
        word=word,
        skin=_skin(random),
        hair=_hair(random),
        hair_style=_style(random, word),
        eyes=_vivid(random, (0.25, 0.7)),
        glasses=bool(random.random() < 0.3),
        beard=bool(word == "man" and random.random() < 0.4),
        hat=str(random.choice(HATS, p=(0.58, 0.14, 0.14, 0.14))),  # most people have none
        hat_color=_vivid(random, (0.3, 0.95)),
        shirt=_vivid(random, (0.3, 1.0)),
        trousers=_vivid(random, (0.15, 0.7)),
    )


def vary_look(random: Random, look: Look) -> Look:
    """Give the same person with one attribute changed, so that the change can be seen."""
    other = draw_look(random, look.word)
    # The word is no part of the identity, and eyes are a pixel or two.
    names = [field.name for field in fields(Look) if field.name not in ("word", "eyes")]
    if look.hat == "none":
        names.remove("hat_color")
    else:  # a hat hides most of the hair
        names.remove("hair_style")
        names.remove("hair")
    if look.word != "man":
        names.remove("beard")
    name = str(random.choice(names))
    return replace(look, **{name: _different(random, name, getattr(look, name), other)})


def _different(random: Random, name: str, value: Any, other: Look) -> Any:
    if isinstance(value, bool):
        return not value
    for _ in range(50):
        changed = getattr(other, name)
        if isinstance(value, str):
            if changed != value:
                return changed
        # A colour must differ enough to be seen.
        elif max(abs(a - b) for a, b in zip(changed, value, strict=True)) > 0.25:
            return changed
        other = draw_look(random, other.word)
    raise RuntimeError(f"no {name} other than {value} was drawn in 50 attempts")


def _skin(random: Random) -> Color:
    return blend(LIGHT_SKIN, DARK_SKIN, float(random.random()) ** 1.3)


def _hair(random: Random) -> Color:
    """Draw a colour of hair: natural three times in four, dyed otherwise."""
    if random.random() < 0.25:
        return _vivid(random, (0.45, 0.9))
    first, second = (NATURAL_HAIR[i] for i in random.integers(0, len(NATURAL_HAIR), 2))
    return blend(first, second, float(random.random()) * 0.5)


def _style(random: Random, word: str) -> str:
    # In the order of HAIR_STYLES.
    odds = {
        "man": (0.4, 0.25, 0.25, 0.1, 0.0),
        "woman": (0.12, 0.2, 0.0, 0.4, 0.28),
        "kid": (0.3, 0.25, 0.25, 0.1, 0.1),
    }
    return str(random.choice(HAIR_STYLES, p=odds[word]))


def _vivid(random: Random, value: tuple[float, float]) -> Color:
    """Draw a colour of any hue, pale to strong, with a brightness in the range `value`."""
    return colorsys.hsv_to_rgb(
        float(random.random()), float(random.random()) ** 0.6 * 0.95, float(random.uniform(*value))
    )


def paint_person(
    brush: Brush, look: Look, x: float, ground: float, height: float, pose: str = "standing"
) -> None:
    """Draw a person with feet at (x, ground).

    Args:
        height: of a man without hair and hat, in sides of the picture; others are smaller.
        pose: one of POSES.
    """
    h = height * STATURE[look.word]
    head = h * HEAD[look.word]
    face, neck = ground - h + head / 2, ground - h + head * 0.93
    waist = ground - h * 0.22
    broad = h * BREADTH[look.word]
    _paint_back_hair(brush, look, x, face, head)
    _paint_legs(brush, look, x, ground, waist, h)
    _paint_arms(brush, look, x, neck, waist, broad, h, pose)
    if look.word == "woman":
        top, hem = broad * 0.42, broad * 0.82
        flare = [(x - top, neck), (x + top, neck), (x + hem, waist + h * 0.09)]
        brush.shape([*flare, (x - hem, waist + h * 0.09)], look.shirt)
    brush.box(x, neck - h * 0.01, broad, waist - neck + h * 0.02, look.shirt, h * 0.05)
    brush.disc(x, neck + h * 0.005, head * 0.34, head * 0.14, look.skin)
    _paint_head(brush, look, x, face, head)


def _paint_legs(brush: Brush, look: Look, x: float, ground: float, waist: float, h: float) -> None:
    for side in (-1, 1):
        leg = x + side * h * 0.07
        brush.box(leg, waist - h * 0.02, h * 0.125, ground - waist, look.trousers)
        brush.box(leg + side * h * 0.01, ground - h * 0.045, h * 0.15, h * 0.045, DARK, h * 0.02)


def _paint_arms(
    brush: Brush,
    look: Look,
    x: float,
    neck: float,
    waist: float,
    broad: float,
    h: float,
    pose: str,
) -> None:
    """Draw the arms: the left one is raised to wave, both are raised to cheer."""
    raised = {"standing": (), "waving": (-1,), "cheering": (-1, 1)}[pose]
    for side in (-1, 1):
        shoulder = (x + side * broad * 0.44, neck + h * 0.045)
        hand = (x + side * (broad * 0.5 + h * 0.05), waist - h * 0.02)
        if side in raised:
            hand = (x + side * (broad * 0.5 + h * 0.20), neck - h * 0.15)
        brush.line([shoulder, hand], h * 0.085, shade(look.shirt, 0.86))
        brush.disc(*hand, h * 0.1, h * 0.1, look.skin)


def _paint_back_hair(brush: Brush, look: Look, x: float, y: float, size: float) -> None:
    if look.hair_style == "long":
        brush.box(x, y - size * 0.36, size * 1.12, size * 1.06, look.hair, size * 0.36)
    elif look.hair_style == "curly":
        for angle in np.linspace(-0.15, 1.15, 9) * np.pi:
            dx, dy = np.cos(angle) * 0.45, -np.sin(angle) * 0.42
            brush.disc(x + size * dx, y + size * dy, size * 0.38, size * 0.38, look.hair)
    elif look.hair_style == "bun" and look.hat == "none":
        brush.disc(x, y - size * 0.58, size * 0.44, size * 0.4, look.hair)


def _paint_head(brush: Brush, look: Look, x: float, y: float, size: float) -> None:
    brush.disc(x, y, size * 0.92, size, look.skin)
    if look.beard:
        brush.disc(x, y + size * 0.27, size * 0.74, size * 0.5, look.hair)
        brush.disc(x, y + size * 0.08, size * 0.74, size * 0.34, look.skin)
    _paint_fringe(brush, look, x, y, size)
    eye_y = y + size * 0.05
    for side in (-1, 1):
        eye = x + side * size * 0.2
        brush.disc(eye, eye_y, size * 0.2, size * 0.22, (1.0, 1.0, 1.0))
        brush.disc(eye, eye_y + size * 0.01, size * 0.14, size * 0.17, look.eyes)
        brush.disc(eye, eye_y + size * 0.02, size * 0.07, size * 0.09, DARK)
        if look.glasses:
            brush.arc(eye, eye_y, size * 0.36, size * 0.06, DARK, 0, 360)
    if look.glasses:
        brush.box(x, eye_y - size * 0.02, size * 0.1, size * 0.05, DARK)
    brush.arc(x, y + size * 0.2, size * 0.26, size * 0.05, (0.62, 0.16, 0.18), 20, 160)
    _paint_hat(brush, look, x, y, size)


def _paint_fringe(brush: Brush, look: Look, x: float, y: float, size: float) -> None:
    brush.half_disc(x, y - size * 0.06, size * 0.98, size * 0.98, look.hair)
    if look.hair_style == "spiky" and look.hat == "none":
        for place in (-0.36, -0.19, 0.0, 0.19, 0.36):
            foot, tip = y - size * (0.5 - 0.5 * place**2), y - size * (0.82 - 0.9 * place**2)
            left, right = x + size * (place - 0.13), x + size * (place + 0.13)
            top = x + size * place * 1.3
            foot += size * 0.12
            brush.shape([(left, foot), (top, tip), (right, foot)], look.hair)
    for side in (-1, 1):
        if look.hair_style == "long":
            brush.disc(x + side * size * 0.45, y + size * 0.1, size * 0.2, size * 0.7, look.hair)
        elif look.hair_style == "curly":
            brush.disc(x + side * size * 0.42, y - size * 0.1, size * 0.26, size * 0.3, look.hair)
    brush.box(x, y - size * 0.15, size * 0.72, size * 0.2, look.skin, size * 0.1)


def _paint_hat(brush: Brush, look: Look, x: float, y: float, size: float) -> None:
    color, dark = look.hat_color, shade(look.hat_color, 0.7)
    if look.hat == "cap":
        brush.half_disc(x, y - size * 0.14, size * 1.0, size * 0.86, color)
        brush.box(x + size * 0.34, y - size * 0.2, size * 0.64, size * 0.1, dark, size * 0.05)
    elif look.hat == "beanie":
        brush.half_disc(x, y - size * 0.16, size * 1.02, size * 0.94, color)
        brush.box(x, y - size * 0.27, size * 1.06, size * 0.16, dark, size * 0.07)
        brush.disc(x, y - size * 0.66, size * 0.24, size * 0.24, (0.97, 0.97, 0.97))
    elif look.hat == "brimmed":
        brush.box(x, y - size * 0.72, size * 0.7, size * 0.5, color, size * 0.1)
        brush.box(x, y - size * 0.4, size * 0.72, size * 0.09, dark)
        brush.box(x, y - size * 0.32, size * 1.34, size * 0.11, color, size * 0.05)
