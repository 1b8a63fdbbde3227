"""Draws coloured shapes with an outline: the needles of videos in which a model must find one."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Colour] = {
    "red": (220, 25, 35),
    "green": (25, 150, 45),
    "blue": (35, 70, 225),
    "yellow": (250, 225, 40),
    "orange": (255, 135, 10),
    "purple": (140, 35, 185),
    "white": (250, 250, 250),
    "black": (12, 12, 12),
}


def _corners(*angles_and_radii: tuple[float, float]) -> tuple[Point, ...]:
    return tuple((r * math.sin(math.radians(a)), -r * math.cos(math.radians(a))) for a, r in angles_and_radii)


_ARM = 0.32  # half the width of the cross's arms
_POLYGONS: dict[str, tuple[Point, ...]] = {  # in a square from -1 to 1
    "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": _corners((0, 0.95), (120, 0.95), (240, 0.95)),
    "star": _corners(*((36 * i, 0.98 if i % 2 == 0 else 0.48) for i in range(10))),
    "cross": (
        *((-_ARM, -0.9), (_ARM, -0.9), (_ARM, -_ARM), (0.9, -_ARM), (0.9, _ARM), (_ARM, _ARM)),
        *((_ARM, 0.9), (-_ARM, 0.9), (-_ARM, _ARM), (-0.9, _ARM), (-0.9, -_ARM), (-_ARM, -_ARM)),
    ),
}
_RADIUS = 0.88  # of the circle
SHAPES = (*_POLYGONS, "circle")

_SUPERSAMPLING = 4
_OUTLINE = 0.09  # width, where the shape's half size is 1


def draw(shape: str, colour: Colour, size: int, degrees: float = 0.0) -> NDArray[np.uint8]:
    """Draw a shape with an outline that is visible on any background.

    Args:
        shape: One of ``SHAPES``.
        colour: RGB.
        size: Side of the picture in pixels.
        degrees: Rotation of the shape, clockwise.

    Returns:
        RGBA picture ``[size, size, 4]``, transparent around the shape.
    """
    canvas = Image.new("RGBA", (size * _SUPERSAMPLING,) * 2)
    pen = ImageDraw.Draw(canvas)
    half = canvas.width / 2
    fill = (*colour, 255)
    outline = (20, 20, 20, 255) if _brightness(colour) > 110 else (245, 245, 245, 255)
    width = round(_OUTLINE * half)
    if shape in _POLYGONS:
        corners = [_rotated(corner, degrees, half) for corner in _POLYGONS[shape]]
        pen.polygon(corners, fill=fill)
        pen.line([*corners, *corners[:2]], fill=outline, width=width, joint="curve")
    else:
        pen.ellipse(_box(_RADIUS, half), fill=fill, outline=outline, width=width)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


def _brightness(colour: Colour) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _rotated(point: Point, degrees: float, half: float) -> Point:
    x, y = point
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (1 + x * cos - y * sin) * half, (1 + x * sin + y * cos) * half


def _box(radius: float, half: float) -> tuple[float, float, float, float]:
    return (1 - radius) * half, (1 - radius) * half, (1 + radius) * half, (1 + radius) * half
