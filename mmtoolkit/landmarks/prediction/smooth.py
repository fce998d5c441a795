"""Smooth points on video: faces are tracked from frame to frame and filtered with the One-Euro filter."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmtoolkit.landmarks.data.face import Boxes, enclosing_box, intersection_over_union
from mmtoolkit.landmarks.data.points import Points

OVERLAP = 0.3
"""Least intersection over union of two boxes of the same face."""


@dataclass
class OneEuroFilter:
    """One-Euro filter of Casiez et al. (CHI 2012): smooth at rest, quick in motion.

    Speeds are relative to the face's size, so that the settings hold at every distance from the camera.

    Attributes:
        rate: frames per second.
        min_cutoff: cut-off at rest in Hz; lower is steadier.
        beta: increase of the cut-off with speed (face sizes per second); higher follows faster.
        derivative_cutoff: cut-off in Hz of the filter of the speed.
    """

    rate: float = 30.0
    min_cutoff: float = 0.6
    beta: float = 40.0
    derivative_cutoff: float = 2.0
    _value: Points | None = field(default=None, repr=False)
    _speed: Points | None = field(default=None, repr=False)

    def __call__(self, points: Points) -> Points:
        """Filter the next frame's points `(n, 2)`."""
        if self._value is None or self._speed is None:
            self._value, self._speed = points.astype(np.float32), np.zeros_like(points)
            return points
        box = enclosing_box(points)
        size = max(1.0, float(np.sqrt(np.prod(box[2:] - box[:2]))))
        speed = (points - self._value) * self.rate / size
        share = self._share(np.float32(self.derivative_cutoff))
        self._speed = (self._speed + share * (speed - self._speed)).astype(np.float32)
        # a face moves as a whole: its mean speed sets the cut-off, so that noisy single points do not
        pace = np.linalg.norm(self._speed.mean(0))
        own = np.linalg.norm(self._speed, axis=1, keepdims=True)
        cutoff = self.min_cutoff + self.beta * np.maximum(pace, own - 0.1).clip(min=0) ** 2
        self._value = (self._value + self._share(cutoff) * (points - self._value)).astype(np.float32)
        return self._value

    def _share(self, cutoff: NDArray[np.float32] | np.float32) -> NDArray[np.float32]:
        """Return the weight of the new value for a cut-off in Hz."""
        return np.asarray(1 / (1 + self.rate / (2 * np.pi * cutoff)), np.float32)


@dataclass
class Tracker:
    """Gives each face of a video a number and its own filter.

    Attributes:
        rate: frames per second.
        smooth: filter the points.
        overlap: least intersection over union with the box in the last frame of the same face.
    """

    rate: float = 30.0
    smooth: bool = True
    overlap: float = OVERLAP
    _faces: dict[int, tuple[Boxes, OneEuroFilter]] = field(default_factory=dict, repr=False)
    _next: int = 0

    def update(self, points: Points) -> tuple[list[int], Points]:
        """Follow the faces of the next frame.

        Args:
            points: `(n, 106, 2)` from the network.

        Returns:
            A number for each face and the filtered points `(n, 106, 2)`.
        """
        boxes = [enclosing_box(one) for one in points]
        free, numbers, filtered = dict(self._faces), [], []
        self._faces = {}
        for one, box in zip(points, boxes, strict=True):
            overlaps = {number: intersection_over_union(box, old) for number, (old, _) in free.items()}
            best = max(overlaps, key=lambda number: overlaps[number], default=None)
            if best is None or overlaps[best] < self.overlap:
                best, kept = self._next, OneEuroFilter(self.rate)
                self._next += 1
            else:
                kept = free.pop(best)[1]
            self._faces[best] = (box, kept)
            numbers.append(best)
            filtered.append(kept(one) if self.smooth else one)
        return numbers, np.stack(filtered) if filtered else points
