"""Draw with Pillow, in units of the picture's side, at several times the size; then reduce.

Colours are RGB in [0, 1], as the world's people have them. Other modules decide what is drawn.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

Color = tuple[float, float, float]

OVERSAMPLING = 3  # Pillow's shapes have hard edges; reducing them makes them smooth


def rgb(color: Color) -> tuple[int, int, int]:
    """Give a colour as Pillow wants it."""
    red, green, blue = (round(255 * min(max(part, 0.0), 1.0)) for part in color)
    return red, green, blue


def blend(color: Color, other: Color, share: float) -> Color:
    """Mix two colours; `share` is the share of the other one, in [0, 1]."""
    first, second, third = (a + share * (b - a) for a, b in zip(color, other, strict=True))
    return first, second, third


def shade(color: Color, factor: float) -> Color:
    """Darken a colour (factor below 1) or lighten it."""
    return blend(color, (0.0, 0.0, 0.0) if factor < 1 else (1.0, 1.0, 1.0), abs(1 - factor))


class Brush:
    """Draws on a layer: (0, 0) is the upper left corner of the picture, (1, 1) the lower right."""

    def __init__(self, size: int) -> None:
        """Start with an empty (transparent) layer for a picture of `size` pixels a side."""
        self._size, self._side = size, size * OVERSAMPLING
        self.layer = Image.new("RGBA", (self._side, self._side))
        self._draw = ImageDraw.Draw(self.layer)

    def disc(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        """Fill an ellipse around (x, y)."""
        self._draw.ellipse(self._around(x, y, width, height), rgb(color))

    def half_disc(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        """Fill the upper half of an ellipse around (x, y)."""
        self._draw.pieslice(self._around(x, y, width, height), 180, 360, rgb(color))

    def box(
        self, x: float, y: float, width: float, height: float, color: Color, corner: float = 0.0
    ) -> None:
        """Fill a rectangle with centre x and top y; `corner` is the radius of its corners."""
        area = self._around(x, y + height / 2, width, height)
        self._draw.rounded_rectangle(area, corner * self._side, rgb(color))

    def shape(self, points: Sequence[tuple[float, float]], color: Color) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * self._side, y * self._side) for x, y in points], rgb(color))

    def line(self, points: Sequence[tuple[float, float]], width: float, color: Color) -> None:
        """Draw a line with round ends and joints."""
        corners = [(x * self._side, y * self._side) for x, y in points]
        self._draw.line(corners, rgb(color), max(1, round(width * self._side)), joint="curve")
        # Pillow rounds the joints alone.
        for x, y in (points[0], points[-1]):
            self.disc(x, y, width, width, color)

    def arc(
        self, x: float, y: float, width: float, thick: float, color: Color, start: int, end: int
    ) -> None:
        """Draw part of a circle's outline around (x, y), clockwise from 3 o'clock in degrees."""
        stroke = max(1, round(thick * self._side))
        self._draw.arc(self._around(x, y, width, width), start, end, rgb(color), stroke)

    def gradient(self, top: Color, bottom: Color, start: float = 0.0, end: float = 1.0) -> None:
        """Fill the rows from `start` to `end` with a vertical gradient."""
        first, last = round(start * self._side), round(end * self._side)
        size = (self._side, max(1, last - first))
        # The ramp is black at the top and white at the bottom.
        ramp = Image.linear_gradient("L").resize(size, Image.Resampling.BILINEAR)
        ends = [Image.new("RGB", size, rgb(color)) for color in (bottom, top)]
        self.layer.paste(Image.composite(*ends, ramp), (0, first))

    def tint(self, color: Color, share: float) -> None:
        """Blend what has been drawn towards a colour; empty pixels stay empty."""
        alpha = self.layer.getchannel("A")
        flat = Image.new("RGB", self.layer.size, rgb(color))
        mixed = Image.blend(self.layer.convert("RGB"), flat, share)
        mixed.putalpha(alpha)
        self.layer.paste(mixed)

    def cover(self) -> Bool[np.ndarray, "size size"]:
        """Tell which pixels of the picture this layer covers by half or more."""
        alpha = self.layer.getchannel("A").resize((self._size, self._size), Image.Resampling.BOX)
        return np.asarray(alpha) > 127

    def picture(self, layers: Sequence["Brush"]) -> UInt8[np.ndarray, "size size 3"]:
        """Lay other layers over this one, in order, and reduce to the picture's size."""
        image = self.layer.convert("RGB")
        for brush in layers:
            image.paste(brush.layer, mask=brush.layer.getchannel("A"))
        return np.array(image.resize((self._size, self._size), Image.Resampling.BOX))

    def _around(self, x: float, y: float, width: float, height: float) -> list[float]:
        edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return [edge * self._side for edge in edges]
