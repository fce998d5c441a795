"""The embedded picture set: captioned scenes of coloured shapes, drawn by code.

    a large red star at the top left on white
    three small blue squares on black
    a green ring left of a purple triangle on grey

Shapes are drawn from signed distances: edges are smooth, and a second suffices for thousands of pictures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
SIZE = 32

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (245, 205, 40),
    "purple": (150, 60, 190),
    "orange": (245, 130, 30),
}
BACKGROUNDS = {"white": (245, 245, 245), "black": (15, 15, 15), "grey": (125, 125, 125)}
RADII = {"small": 4.0, "large": 7.5}
PLACES = {
    "at the top left": (0, 0),
    "at the top": (0, 1),
    "at the top right": (0, 2),
    "on the left": (1, 0),
    "in the middle": (1, 1),
    "on the right": (1, 2),
    "at the bottom left": (2, 0),
    "at the bottom": (2, 1),
    "at the bottom right": (2, 2),
}
COUNTS = {"two": 2, "three": 3, "four": 4}


@dataclass(frozen=True)
class Mark:
    """One drawn shape.

    Attributes:
        shape: a key of `SHAPES`.
        colour: a key of `COLOURS`.
        x: centre from the left edge, in pixels.
        y: centre from the top edge, in pixels.
        radius: half of its width, in pixels.
    """

    shape: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """The content of a picture: its shapes, the name of its background, and its caption."""

    marks: tuple[Mark, ...]
    background: str
    caption: str


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 1


def _square(x: Array, y: Array) -> Array:
    return np.asarray(np.maximum(abs(x), abs(y)) - 0.88)


def _triangle(x: Array, y: Array) -> Array:
    return np.asarray(np.maximum(0.866 * abs(x) - 0.5 * y - 0.5, y - 0.8))


def _ring(x: Array, y: Array) -> Array:
    return abs(np.hypot(x, y) - 0.72) - 0.28


def _cross(x: Array, y: Array) -> Array:
    long, short = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return np.asarray(np.maximum(long - 1, short - 0.36))


def _star(x: Array, y: Array) -> Array:
    sector = 2 * np.pi / 5
    angle = abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    # the straight edge from the tip (radius 1.15) to the notch (radius 0.5) within half a sector
    tip, notch = np.array([1.15, 0.0]), 0.5 * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    normal = np.array([notch[1] - tip[1], tip[0] - notch[0]]) / np.hypot(*(notch - tip))
    along, across = radius * np.cos(angle) - tip[0], radius * np.sin(angle) - tip[1]
    return np.asarray(along * normal[0] + across * normal[1])


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
    "star": _star,
}
"""Signed distance functions of shapes of radius 1: negative inside, y points down."""


def vocabulary() -> list[str]:
    """Return all words that captions use, sorted."""
    words = {"a", "an", "left", "of", "above", "on", *RADII, *COLOURS, *BACKGROUNDS, *COUNTS, *SHAPES}
    words |= {plural(shape) for shape in SHAPES}
    return sorted(words.union(*(position.split() for position in PLACES)))


def a(word: str) -> str:
    """Return a word with its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(shape: str) -> str:
    """Return the plural of a shape's name."""
    return "crosses" if shape == "cross" else f"{shape}s"


def make_shapes(count: int, seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Draw random pictures with captions.

    Args:
        count: number of pictures.
        seed: seed of the random scenes.

    Returns:
        Pictures `(count, 32, 32, 3)` in 0..255, and captions.
    """
    scenes = list(draw_scenes(count, np.random.default_rng(seed)))
    return np.stack([render(scene) for scene in scenes]), [scene.caption for scene in scenes]


def draw_scenes(count: int, rng: np.random.Generator) -> Iterator[Scene]:
    """Yield random scenes: one shape, several equal shapes, or two shapes and their relation."""
    kinds = (_one, _some, _pair)
    for kind in rng.choice(3, count, p=(0.5, 0.25, 0.25)):
        yield kinds[kind](rng)


def _choose(rng: np.random.Generator, options: object) -> str:
    names = list(options)  # type: ignore[call-overload]
    return str(names[rng.integers(len(names))])


def _one(rng: np.random.Generator) -> Scene:
    """Return a scene of one shape at one of nine positions."""
    shape, colour, size, position = (_choose(rng, o) for o in (SHAPES, COLOURS, RADII, PLACES))
    background = _choose(rng, BACKGROUNDS)
    row, column = PLACES[position]
    radius = RADII[size]
    x, y = (SIZE / 2 + (cell - 1) * (SIZE / 2 - radius - 2) + rng.uniform(-1, 1) for cell in (column, row))
    mark = Mark(shape, colour, x, y, radius * rng.uniform(0.92, 1.08))
    return Scene((mark,), background, f"a {size} {colour} {shape} {position} on {background}")


def _some(rng: np.random.Generator) -> Scene:
    """Return a scene of equal small shapes, each in its own quarter of the picture."""
    shape, colour, count, background = (_choose(rng, o) for o in (SHAPES, COLOURS, COUNTS, BACKGROUNDS))
    quarters = rng.permutation(4)[: COUNTS[count]]
    marks = tuple(
        Mark(
            shape,
            colour,
            8 + 16 * (quarter % 2) + rng.uniform(-2, 2),
            8 + 16 * (quarter // 2) + rng.uniform(-2, 2),
            RADII["small"] * rng.uniform(0.95, 1.1),
        )
        for quarter in quarters
    )
    return Scene(marks, background, f"{count} small {colour} {plural(shape)} on {background}")


def _pair(rng: np.random.Generator) -> Scene:
    """Return a scene of two shapes of different colours, side by side or one above the other."""
    first, second = (_choose(rng, SHAPES) for _ in range(2))
    colours = rng.permutation(list(COLOURS))[:2]
    relation, background = _choose(rng, ("left of", "above")), _choose(rng, BACKGROUNDS)
    marks = []
    for shape, colour, along in zip((first, second), colours, (8.5, 23.5), strict=True):
        across = SIZE / 2 + rng.uniform(-4, 4)
        x, y = (along, across) if relation == "left of" else (across, along)
        x, y = x + rng.uniform(-0.7, 0.7), y + rng.uniform(-0.7, 0.7)
        marks.append(Mark(shape, str(colour), x, y, 5.5 * rng.uniform(0.95, 1.08)))
    caption = f"{a(colours[0])} {first} {relation} {a(colours[1])} {second} on {background}"
    return Scene(tuple(marks), background, caption)


def render(scene: Scene) -> NDArray[np.uint8]:
    """Draw a scene as `(32, 32, 3)` in 0..255, with edges blurred over one pixel."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5
    picture = np.broadcast_to(np.asarray(BACKGROUNDS[scene.background], np.float32), (SIZE, SIZE, 3))
    for mark in scene.marks:
        distance = SHAPES[mark.shape]((columns - mark.x) / mark.radius, (rows - mark.y) / mark.radius)
        cover = np.clip(0.5 - distance * mark.radius, 0, 1)[..., None]
        picture = (1 - cover) * picture + cover * np.asarray(COLOURS[mark.colour], np.float32)
    return np.asarray(picture.round(), np.uint8)
