"""What a caption may say of a person's look, in words.

Captions of photos sometimes name a beard or the colour of a shirt, and a model that is trained on
such captions can be asked for them. The prior's training names some attributes of each person in a
share of the captions (`unet.described`; by default 0). MoA's training and its prompts name none,
because there the photo shows them.
"""

import colorsys

import numpy as np

from moa_jax.toyworld.world.brush import Color
from moa_jax.toyworld.world.people import BELOW_HATS, Look

Random = np.random.Generator

MOST = 3  # attributes that a caption names of one person
PLAIN = 0.3  # share of the people whose colours are left out where they can be
DARK = 0.2  # brightness below which a colour is black
PALE = 0.22  # saturation below which it is gray
# Upper end of each hue, in degrees; red has both ends of the circle.
HUES = (
    (15, "red"),
    (42, "orange"),
    (68, "yellow"),
    (165, "green"),
    (252, "blue"),
    (292, "purple"),
    (342, "pink"),
    (360, "red"),
)
BROWN = ("orange", "yellow")  # called brown where they are dark


def color_word(color: Color) -> str:
    """Name a colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    if value < DARK:
        return "black"
    if saturation < PALE:
        return "white" if value > 0.85 else "gray"
    word = next(word for end, word in HUES if hue * 360 <= end)
    return "brown" if word in BROWN and value < 0.7 else word


def hair_word(color: Color) -> str:
    """Name a colour of hair, where pale orange and yellow are blond."""
    word = color_word(color)
    return "blond" if word in ("orange", "yellow") else word


def phrases(look: Look, colored: bool = True) -> dict[str, str]:
    """Give a phrase for each attribute that can be seen, by the attribute's name.

    Args:
        colored: whether colours are named. Shirts and trousers always have theirs, because there is
            nothing else to say of them.
    """

    def of(color: str, thing: str, *, needed: bool = False) -> str:
        return f"{color} {thing}" if colored or needed else thing

    said = {}
    bare = look.hat == "none"
    if bare or look.hair_style in BELOW_HATS:
        hair = hair_word(look.hair)
        bun = look.hair_style == "bun"
        said["hair_style"] = (
            f"with {_article(of(hair, 'bun'))}"
            if bun
            else f"with {look.hair_style} {of(hair, 'hair')}"
        )
    if look.beard:
        said["beard"] = "with a beard"
    if look.glasses:
        said["glasses"] = "with glasses"
    if not bare:
        kind = {"brimmed": "hat"}.get(look.hat, look.hat)
        said["hat"] = f"in {_article(of(color_word(look.hat_color), kind))}"
    said["shirt"] = f"in {_article(of(color_word(look.shirt), 'shirt', needed=True))}"
    said["trousers"] = f"in {of(color_word(look.trousers), 'trousers', needed=True)}"
    return said


def describe_person(look: Look, random: Random) -> str:
    """Name some attributes of a person, drawn at random: "man with a beard in a red shirt"."""
    said = phrases(look, colored=bool(random.random() >= PLAIN))
    count = min(int(random.integers(1, MOST + 1)), len(said))
    chosen = set(random.choice(list(said), count, replace=False))
    return " ".join([look.word, *(phrase for name, phrase in said.items() if name in chosen)])


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
