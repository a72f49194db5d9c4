"""The contexts of the toy world: what captions do say, and how it is drawn.

A `Context` is a place, a time of day, the weather, what the people do and a thing beside them.
Captions have words for every value except two: clear weather, and that there is no thing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moa_jax.toyworld.world.brush import Brush, Color, blend, shade

Random = np.random.Generator

# Field of a context -> value -> its words in a caption.
CHOICES: dict[str, dict[str, str]] = {
    "pose": {"standing": "standing", "waving": "waving", "cheering": "cheering"},
    "prop": {
        "none": "",
        "balloon": "with a balloon",
        "umbrella": "with an umbrella",
        "ball": "with a ball",
        "dog": "with a dog",
    },
    "place": {
        "beach": "on the beach",
        "snow": "in the snow",
        "forest": "in the forest",
        "city": "in the city",
        "desert": "in the desert",
        "garden": "in the garden",
        "farm": "at the farm",
        "castle": "at the castle",
        "market": "at the market",
        "playground": "on the playground",
    },
    "time": {"day": "by day", "sunset": "at sunset", "night": "at night"},
    "weather": {"clear": "", "rain": "in the rain", "fog": "in the fog"},
}


@dataclass(frozen=True)
class Context:
    """Everything in a scene but the people; each value is a key of its table in CHOICES."""

    place: str
    time: str
    weather: str
    pose: str
    prop: str

    def phrase(self) -> str:
        """Say it in the words of a caption."""
        words = (table[getattr(self, field)] for field, table in CHOICES.items())
        return " ".join(word for word in words if word)


def draw_context(random: Random) -> Context:
    """Draw each value independently; the weather is clear half of the time."""
    clear = random.random() < 0.5
    return Context(
        place=str(random.choice(list(CHOICES["place"]))),
        time=str(random.choice(list(CHOICES["time"]))),
        weather="clear" if clear else str(random.choice(("rain", "fog"))),
        pose=str(random.choice(list(CHOICES["pose"]))),
        prop=str(random.choice(list(CHOICES["prop"]))),
    )


# By time of day: top and bottom of the sky; the light on the land, and how much of it.
SKIES: dict[str, tuple[Color, Color]] = {
    "day": ((0.30, 0.62, 0.92), (0.82, 0.93, 0.98)),
    "sunset": ((0.55, 0.30, 0.55), (1.0, 0.66, 0.30)),
    "night": ((0.03, 0.05, 0.16), (0.14, 0.17, 0.38)),
}
LIGHTS: dict[str, tuple[Color, float]] = {
    "day": ((1.0, 1.0, 1.0), 0.0),
    "sunset": ((0.85, 0.38, 0.15), 0.32),
    "night": ((0.04, 0.06, 0.22), 0.62),
}
HORIZON = 0.62  # from the top, in sides of the picture
MIST = (0.86, 0.88, 0.90)  # what fog blends everything towards
FOG = 0.5  # share of mist in what lies behind the people
CLOUD = (0.42, 0.46, 0.52)  # what rain blends the sky and the land towards
RAIN = (0.80, 0.86, 0.95)  # its streaks


def paint_place(context: Context, random: Random, size: int) -> Brush:
    """Draw sky and land of a context; `paint_veil` draws the weather before the people.

    Args:
        random: varies what stands where.
        size: side of the picture in pixels.
    """
    sky = Brush(size)
    top, bottom = SKIES[context.time]
    if context.weather == "rain":
        top, bottom = (blend(color, CLOUD, 0.55) for color in (top, bottom))
    sky.gradient(top, bottom, 0.0, HORIZON + 0.1)
    _paint_lights(sky, context, random)
    land = Brush(size)
    PLACES[context.place](land, random)
    color, share = LIGHTS[context.time]
    land.tint(color, share)
    sky.layer.alpha_composite(land.layer)
    if context.weather == "rain":
        sky.tint(CLOUD, 0.25)
    elif context.weather == "fog":
        sky.tint(MIST, FOG)
    return sky


def paint_veil(context: Context, random: Random, size: int) -> Brush:
    """Draw what the weather lays over everything: streaks of rain, or nothing."""
    veil = Brush(size)
    if context.weather == "rain":
        for x, y in random.uniform(-0.05, 1.0, (26, 2)):
            veil.line([(x, y), (x - 0.035, y + 0.11)], 0.6 / size, RAIN)  # 0.6 pixels wide
    return veil


def _paint_lights(sky: Brush, context: Context, random: Random) -> None:
    """Draw sun, moon and stars, where the weather lets them be seen."""
    x = float(random.choice((0.14, 0.86))) + float(random.uniform(-0.04, 0.04))
    if context.weather != "clear":
        return
    if context.time == "day":
        sky.disc(x, 0.14, 0.15, 0.15, (1.0, 0.93, 0.55))
    elif context.time == "sunset":
        sky.disc(x, 0.5, 0.22, 0.22, (1.0, 0.88, 0.60))
    else:
        sky.disc(x, 0.13, 0.13, 0.13, (0.97, 0.95, 0.80))
        for star, height in random.uniform(0.02, 0.98, (14, 2)):
            sky.disc(star, height * 0.45, 0.018, 0.018, (0.98, 0.97, 0.88))


def _beach(brush: Brush, random: Random) -> None:
    brush.box(0.5, 0.52, 1.0, 0.2, (0.10, 0.52, 0.74))
    brush.box(0.5, 0.66, 1.0, 0.05, (0.45, 0.82, 0.88))
    brush.box(0.5, 0.69, 1.0, 0.35, (0.96, 0.85, 0.60))
    x = float(random.choice((0.1, 0.9)))
    lean = 0.04 if x < 0.5 else -0.04
    brush.line([(x, 0.8), (x + lean, 0.3)], 0.035, (0.50, 0.33, 0.18))
    for dx, dy in ((-0.15, 0.06), (-0.12, -0.06), (0.12, -0.06), (0.15, 0.06), (0.0, -0.1)):
        tip = (x + lean + dx, 0.3 + dy)
        brush.line([(x + lean, 0.3), tip], 0.045, (0.16, 0.56, 0.26))


def _snow(brush: Brush, random: Random) -> None:
    for x in (0.12, 0.5, 0.88) + random.uniform(-0.08, 0.08, 3):
        top = float(random.uniform(0.28, 0.4))
        brush.shape([(x - 0.32, 0.75), (x, top), (x + 0.32, 0.75)], (0.58, 0.68, 0.80))
        brush.shape([(x - 0.1, top + 0.11), (x, top), (x + 0.1, top + 0.11)], (1.0, 1.0, 1.0))
    brush.disc(0.3, 1.05, 1.7, 0.9, (0.97, 0.98, 1.0))
    brush.disc(0.9, 1.1, 1.3, 0.9, (0.90, 0.94, 0.99))


def _forest(brush: Brush, random: Random) -> None:
    brush.box(0.5, 0.66, 1.0, 0.4, (0.33, 0.50, 0.24))
    for depth, color in enumerate(((0.30, 0.58, 0.36), (0.12, 0.38, 0.22))):
        for x in np.linspace(0.02, 0.98, 6) + random.uniform(-0.06, 0.06, 6):
            top = float(random.uniform(0.05, 0.15)) + 0.1 * depth
            brush.box(x, 0.6, 0.035, 0.2, (0.34, 0.22, 0.14))
            for step in range(3):
                y, wide = top + 0.14 * step, 0.08 + 0.03 * step
                brush.shape([(x - wide, y + 0.24), (x, y), (x + wide, y + 0.24)], color)


def _city(brush: Brush, random: Random) -> None:
    walls = ((0.62, 0.52, 0.47), (0.50, 0.55, 0.62), (0.70, 0.62, 0.48), (0.44, 0.47, 0.54))
    for x in np.linspace(0.06, 0.94, 6):
        top = float(random.uniform(0.14, 0.42))
        brush.box(x, top, 0.165, 0.8 - top, walls[random.integers(len(walls))])
        for y in np.arange(top + 0.05, 0.74, 0.11):
            for offset in (-0.04, 0.04):
                brush.box(x + offset, y, 0.04, 0.055, (1.0, 0.90, 0.55))
    brush.box(0.5, 0.76, 1.0, 0.26, (0.42, 0.44, 0.48))
    brush.box(0.5, 0.76, 1.0, 0.03, (0.78, 0.79, 0.80))


def _desert(brush: Brush, random: Random) -> None:
    brush.disc(float(random.uniform(0.0, 0.3)), 0.8, 1.1, 0.5, (0.86, 0.60, 0.34))
    brush.disc(float(random.uniform(0.7, 1.0)), 0.85, 1.2, 0.5, (0.93, 0.70, 0.42))
    brush.box(0.5, 0.8, 1.0, 0.25, (0.93, 0.70, 0.42))
    for x, tall in ((0.1, 0.36), (0.9, 0.3)):
        x, green = x + float(random.uniform(-0.05, 0.05)), (0.22, 0.50, 0.28)
        brush.line([(x, 0.8), (x, 0.8 - tall)], 0.06, green)
        brush.line([(x, 0.66), (x - 0.08, 0.64), (x - 0.08, 0.55)], 0.04, green)
        brush.line([(x, 0.62), (x + 0.08, 0.6), (x + 0.08, 0.5)], 0.04, green)


def _garden(brush: Brush, random: Random) -> None:
    brush.box(0.5, 0.4, 1.0, 0.4, (0.26, 0.55, 0.24))
    brush.box(0.5, 0.66, 1.0, 0.4, (0.52, 0.76, 0.34))
    for x in np.linspace(0.05, 0.95, 7):
        brush.box(x, 0.5, 0.085, 0.24, (0.96, 0.95, 0.92), 0.02)
    brush.box(0.5, 0.57, 1.0, 0.035, (0.96, 0.95, 0.92))
    for x in np.linspace(0.04, 0.96, 9) + random.uniform(-0.03, 0.03, 9):
        petals = ((0.93, 0.30, 0.52), (0.98, 0.80, 0.25), (0.66, 0.35, 0.85))
        brush.disc(x, float(random.uniform(0.76, 0.9)), 0.06, 0.06, petals[random.integers(3)])


def _farm(brush: Brush, random: Random) -> None:
    brush.box(0.5, HORIZON, 1.0, 0.4, (0.82, 0.72, 0.30))
    for row in range(4):
        brush.box(0.5, 0.68 + 0.09 * row, 1.0, 0.03, (0.66, 0.52, 0.20))
    x, red = float(random.choice((0.16, 0.84))), (0.72, 0.14, 0.12)
    brush.shape([(x - 0.2, 0.36), (x, 0.18), (x + 0.2, 0.36)], (0.45, 0.10, 0.10))
    brush.box(x, 0.36, 0.36, 0.34, red)
    brush.box(x, 0.46, 0.16, 0.24, (0.97, 0.94, 0.90))
    brush.box(x, 0.49, 0.1, 0.21, (0.45, 0.10, 0.10))


def _castle(brush: Brush, random: Random) -> None:
    stone, roof = (0.60, 0.60, 0.66), (0.26, 0.34, 0.62)
    brush.box(0.5, 0.38, 1.0, 0.36, stone)
    for x in np.linspace(0.0, 1.0, 9):
        brush.box(x, 0.33, 0.065, 0.07, stone)
    for x in (0.12, 0.88):
        x += float(random.uniform(-0.03, 0.03))
        brush.box(x, 0.24, 0.2, 0.5, shade(stone, 0.85))
        brush.shape([(x - 0.14, 0.25), (x, 0.02), (x + 0.14, 0.25)], roof)
        brush.box(x, 0.36, 0.05, 0.1, (0.20, 0.20, 0.26))
    brush.box(0.5, 0.72, 1.0, 0.3, (0.46, 0.62, 0.36))


def _market(brush: Brush, random: Random) -> None:
    brush.box(0.5, 0.74, 1.0, 0.3, (0.66, 0.58, 0.52))
    for x, color in ((0.18, (0.90, 0.22, 0.24)), (0.82, (0.16, 0.52, 0.80))):
        x += float(random.uniform(-0.03, 0.03))
        brush.box(x, 0.36, 0.34, 0.4, (0.50, 0.36, 0.24))
        for stripe in range(5):
            shown = color if stripe % 2 == 0 else (0.98, 0.97, 0.93)
            brush.box(x - 0.16 + 0.08 * stripe, 0.26, 0.082, 0.15, shown, 0.02)
        for fruit in (-0.11, -0.04, 0.04, 0.11):
            ripe = ((0.98, 0.60, 0.10), (0.55, 0.78, 0.20), (0.86, 0.16, 0.16))
            brush.disc(x + fruit, 0.6, 0.08, 0.08, ripe[random.integers(3)])
        brush.box(x, 0.62, 0.34, 0.14, (0.64, 0.47, 0.30))


def _playground(brush: Brush, random: Random) -> None:
    brush.box(0.5, HORIZON, 1.0, 0.4, (0.86, 0.66, 0.50))
    brush.box(0.5, HORIZON - 0.06, 1.0, 0.08, (0.38, 0.66, 0.36))
    side = float(random.choice((-1.0, 1.0)))
    x = 0.5 + side * 0.3
    brush.line([(x, 0.36), (x + side * 0.16, 0.8)], 0.05, (0.20, 0.45, 0.85))
    brush.line([(x, 0.36), (x - side * 0.04, 0.8)], 0.05, (0.98, 0.80, 0.20))
    brush.box(x, 0.32, 0.14, 0.06, (0.90, 0.25, 0.25))
    x = 0.5 - side * 0.32
    for dx in (-0.13, 0.13):
        brush.line([(x + dx, 0.8), (x, 0.24)], 0.035, (0.90, 0.25, 0.25))
    brush.line([(x, 0.26), (x, 0.62)], 0.015, (0.30, 0.30, 0.34))
    brush.box(x, 0.62, 0.12, 0.04, (0.98, 0.80, 0.20))


PLACES: dict[str, Callable[[Brush, Random], None]] = {
    "beach": _beach,
    "snow": _snow,
    "forest": _forest,
    "city": _city,
    "desert": _desert,
    "garden": _garden,
    "farm": _farm,
    "castle": _castle,
    "market": _market,
    "playground": _playground,
}


def paint_prop(brush: Brush, prop: str, x: float, ground: float) -> None:
    """Draw the thing beside the people, centred on x, on the ground or above it."""
    dark = (0.25, 0.2, 0.2)
    if prop == "balloon":
        brush.line([(x, 0.24), (x, 0.62)], 0.012, dark)
        brush.disc(x, 0.15, 0.19, 0.22, (0.93, 0.13, 0.20))
        brush.disc(x - 0.04, 0.11, 0.045, 0.06, (1.0, 0.72, 0.74))
    elif prop == "umbrella":
        brush.line([(x, 0.3), (x, ground)], 0.02, dark)
        brush.half_disc(x, 0.36, 0.4, 0.36, (0.45, 0.20, 0.65))
        brush.half_disc(x, 0.36, 0.15, 0.36, (0.93, 0.80, 0.25))
    elif prop == "ball":
        brush.disc(x, ground - 0.09, 0.2, 0.2, (1.0, 0.55, 0.08))
        brush.box(x, ground - 0.11, 0.19, 0.035, (0.98, 0.97, 0.93))
    elif prop == "dog":
        coat = (0.58, 0.36, 0.18)
        brush.box(x, ground - 0.13, 0.19, 0.1, coat, 0.04)
        for dx in (-0.07, 0.07):
            brush.box(x + dx, ground - 0.07, 0.04, 0.08, coat)
        brush.line([(x - 0.09, ground - 0.11), (x - 0.14, ground - 0.2)], 0.03, coat)
        brush.disc(x + 0.09, ground - 0.17, 0.15, 0.14, coat)
        brush.disc(x + 0.04, ground - 0.17, 0.05, 0.11, (0.30, 0.17, 0.08))
        brush.disc(x + 0.15, ground - 0.15, 0.06, 0.05, (0.95, 0.90, 0.82))
        brush.disc(x + 0.17, ground - 0.165, 0.025, 0.025, (0.05, 0.05, 0.05))
