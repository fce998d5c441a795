"""A labelled face, and the boxes around it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.landmarks.data.points import COUNT, Points

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]

# The challenge's detector boxes relative to the box that encloses the true points, measured on the published
# `.rect` files, as shares of the true width and height (mean, standard deviation).
BOX_WIDTH, BOX_HEIGHT = (1.21, 0.08), (1.49, 0.13)
BOX_SHIFT_X, BOX_SHIFT_Y = (0.005, 0.04), (-0.107, 0.05)


@dataclass(frozen=True, eq=False)
class Face:
    """A picture with one labelled face.

    Attributes:
        name: name of the picture, such as `AFW_1.jpg`.
        image: `(height, width, 3)` uint8 RGB.
        points: `(106, 2)` float32 pixels in JD order; (0, 0) is the centre of the top left pixel.
        weights: `(106,)` float32 in [0, 1]; 0 where a point is not labelled.
        box: `(4,)` float32 left, top, right, bottom of the detected face in pixels.
        yaw: degrees, positive where the face looks to the image's right; None if unknown.
        pitch: degrees, positive where it looks down; None if unknown.
        roll: degrees, positive clockwise in the image; None if unknown.
        expression: such as `smile`; empty if unknown.
    """

    name: str
    image: Image
    points: Points
    weights: Points
    box: Boxes
    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None
    expression: str = ""

    def __post_init__(self) -> None:
        """Check the shapes; a wrong one is a bug in a reader."""
        assert self.image.dtype == np.uint8
        assert self.image.shape[2:] == (3,)
        for array, shape in ((self.points, (COUNT, 2)), (self.weights, (COUNT,)), (self.box, (4,))):
            assert array.shape == shape
            assert array.dtype == np.float32


def enclosing_box(points: Points, weights: Points | None = None) -> Boxes:
    """Return the smallest box around the labelled points, `(4,)` left, top, right, bottom."""
    kept = points if weights is None else points[weights > 0]
    return np.concatenate([kept.min(0), kept.max(0)]).astype(np.float32)


def official_box(points: Points, weights: Points | None = None) -> Boxes:
    """Return the box of the challenge's detector on average."""
    return _shift_box(
        enclosing_box(points, weights), BOX_WIDTH[0], BOX_HEIGHT[0], BOX_SHIFT_X[0], BOX_SHIFT_Y[0]
    )


def jitter_box(points: Points, weights: Points | None, rng: np.random.Generator) -> Boxes:
    """Draw a random box of the challenge's detector."""
    drawn = (float(rng.normal(*law)) for law in (BOX_WIDTH, BOX_HEIGHT, BOX_SHIFT_X, BOX_SHIFT_Y))
    return _shift_box(enclosing_box(points, weights), *drawn)


def _shift_box(true: Boxes, width: float, height: float, shift_x: float, shift_y: float) -> Boxes:
    size = true[2:] - true[:2]
    centre = (true[:2] + true[2:]) / 2 + size * [shift_x, shift_y]
    half = size * [width, height] / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def intersection_over_union(one: Boxes, other: Boxes) -> float:
    """Return the intersection of two boxes `(4,)` divided by their union."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    areas = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]))
    return shared / max(1e-9, areas - shared)
