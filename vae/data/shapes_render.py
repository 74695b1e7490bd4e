"""Draws 2D shapes: white squares, ellipses and hearts on black, 64×64, every combination of five factors.

Equivalent to the published data set (Matthey et al. 2017: same factors, values and order), but not pixel by pixel.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from vae.data.factors import Factors

SIDE = 64
"""Pixels along an edge of an image."""
ALL = Factors(("shape", "scale", "orientation", "x", "y"), (3, 6, 40, 32, 32))
VALUES: dict[str, Any] = {
    "shape": ("square", "ellipse", "heart"),
    "scale": numpy.linspace(0.5, 1, 6),
    "orientation": numpy.linspace(0, 2 * math.pi, 40),  # both ends, which are the same
    "x": numpy.linspace(0, 1, 32),
    "y": numpy.linspace(0, 1, 32),
}

# In pixels, at scale 1. At most 15.6 from the centre to the outline, so that no shape leaves the image.
SQUARE_HALF_SIDE = 11.0
ELLIPSE_SEMI_AXES = 15.0, 7.5
HEART_UNIT = 11.5
HEART_CENTROID = 0.29348
"""Height of the centroid of the heart (x² + y² − 1)³ ≤ x² y³, whose area is 3.662."""

# Positions are one pixel apart: each is the same drawing, moved. Where the centre is within a pixel decides whether
# small squares at neighbouring angles differ: at a pixel's centre or corner their outlines pass four pixels at a time,
# and 23 of 234 squares coincide with others. At this place none does.
FIRST_CENTRE = (SIDE - 31) / 2
OFFSET = 0.31, 0.17


def render(levels: Sequence[Sequence[int]]) -> Iterator[NDArray[numpy.uint8]]:
    """Images of all combinations of the levels of each factor, the last fastest, packed to bits, [m, 512] at a time.

    Bits are pixels, row by row, the first in the highest bit of a byte.
    """
    shapes, scales, orientations, xs, ys = levels
    # Seen through a window that moves over one large drawing, the shape moves the other way.
    corners = numpy.ix_([31 - y for y in ys], [31 - x for x in xs])
    for shape in shapes:
        for scale in scales:
            for orientation in orientations:
                angle = VALUES["orientation"][orientation % 39]
                drawing = draw(shape, VALUES["scale"][scale], angle, SIDE + 31, OFFSET)
                windows = numpy.lib.stride_tricks.sliding_window_view(drawing, (SIDE, SIDE))[corners]
                yield numpy.packbits(windows.swapaxes(0, 1).reshape(-1, SIDE * SIDE), axis=1)


def draw(
    shape: int, scale: float, angle: float, size: int, offset: tuple[float, float] = (0.0, 0.0)
) -> NDArray[numpy.bool_]:
    """One shape in [size, size] pixels, its centroid at their middle + (x, y) offset, turned clockwise by `angle`.

    A pixel is white where its centre is inside the shape.
    """
    middle = numpy.arange(size) + 0.5 - size / 2
    right, down = numpy.meshgrid(middle - offset[0], middle - offset[1])
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    u, v = cos * right + sin * down, cos * down - sin * right
    inside: NDArray[numpy.bool_]
    if shape == 0:
        inside = numpy.maximum(abs(u), abs(v)) <= SQUARE_HALF_SIDE
    elif shape == 1:
        inside = numpy.hypot(u / ELLIPSE_SEMI_AXES[0], v / ELLIPSE_SEMI_AXES[1]) <= 1
    else:
        x, y = u / HEART_UNIT, HEART_CENTROID - v / HEART_UNIT
        inside = (x**2 + y**2 - 1) ** 3 <= x**2 * y**3
    return inside
