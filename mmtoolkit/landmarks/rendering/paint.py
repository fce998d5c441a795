"""Skin, eyes, brows, lips and hair of a procedural head, painted in the coordinates of its surface."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mmtoolkit.landmarks.rendering.head import SPAN, TEXTURE, TOP, Head, texture_positions
from mmtoolkit.landmarks.rendering.render import Array

_SKINS = np.array(
    [(255, 224, 205), (241, 200, 170), (226, 175, 140), (198, 138, 102), (150, 98, 68), (88, 56, 42)]
)
_HAIRS = np.array(
    [
        (28, 22, 20),
        (52, 36, 28),
        (96, 64, 40),
        (150, 108, 62),
        (206, 170, 110),
        (150, 146, 142),
        (120, 52, 28),
    ]
)
_IRISES = np.array([(58, 36, 22), (92, 62, 36), (84, 102, 62), (78, 112, 142), (110, 120, 126)])
_SHIFT = 4  # fractional bits of OpenCV's polygon coordinates


def paint_head(head: Head, rng: np.random.Generator) -> Array:
    """Return the texture `(TEXTURE, TEXTURE, 3)` of a head, RGB in [0, 1]."""
    skin = _pick(_SKINS, rng)
    hair = _pick(_HAIRS, rng)
    texture = np.broadcast_to(skin, (TEXTURE, TEXTURE, 3)).copy()
    _tint(texture, head, rng)
    if rng.random() < 0.35:
        _beard(texture, head, hair, rng)
    _eyes(texture, head, skin, rng)
    _brows(texture, head, hair, rng)
    _mouth(texture, head, skin, rng)
    _nose(texture, head)
    _hair(texture, hair, rng)
    np.clip(texture, 0, 1, out=texture)
    return texture


def _pick(palette: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """Return a colour between two neighbours of a palette."""
    position = rng.random() * (len(palette) - 1)
    first = int(position)
    colour: Array = palette[first] + (palette[first + 1] - palette[first]) * (position - first)
    shade = rng.normal(1, 0.08) * rng.normal(1, 0.025, 3)
    varied: Array = (np.clip(colour * shade, 4, 255) / 255).astype(np.float32)
    return varied


def noise(size: int, cells: int, rng: np.random.Generator) -> Array:
    """Return smooth noise `(size, size)` of deviation about 1 with `cells` cells across."""
    coarse = rng.normal(size=(cells, cells)).astype(np.float32)
    smooth: Array = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return smooth


@dataclass(frozen=True)
class _Mask:
    """A soft mask `(height, width, 1)` and the part of the texture that it covers."""

    where: tuple[slice, slice]
    share: Array

    def __mul__(self, factor: float | Array) -> "_Mask":
        """Scale the mask, by a number or by a map of the whole texture."""
        local = factor[self.where] if isinstance(factor, np.ndarray) else np.float32(factor)
        return _Mask(self.where, self.share * local)


def _cut(lines: list[Array], blur: float, width: int = 0, *, closed: bool = False) -> _Mask:
    """Fill polygons or draw lines of a width, with soft edges, in the part of the texture that they cover."""
    margin = int(3 * blur) + width + 2
    corners = np.concatenate(lines)
    left, top = np.clip(corners.min(0).astype(int) - margin, 0, TEXTURE - 2)
    right, bottom = np.clip(corners.max(0).astype(int) + margin, (left + 2, top + 2), TEXTURE)
    canvas = np.zeros((bottom - top, right - left), np.uint8)
    for line in lines:
        local = np.round((line - (left, top)) * 2**_SHIFT).astype(np.int32)
        if width:
            cv2.polylines(canvas, [local], closed, 255, width, cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillPoly(canvas, [local], 255, cv2.LINE_AA, _SHIFT)
    soft = cv2.GaussianBlur(canvas, (0, 0), blur, borderType=cv2.BORDER_REPLICATE) if blur else canvas
    return _Mask((slice(top, bottom), slice(left, right)), (soft / np.float32(255))[..., None])


def _blend(texture: Array, mask: _Mask, colour: Array | float) -> None:
    part = texture[mask.where]
    part += mask.share * (colour - part)


def _darken(texture: Array, mask: _Mask, by: float | Array) -> None:
    texture[mask.where] *= 1 - mask.share * np.float32(by)


def _smooth(points: Array, steps: int = 4) -> Array:
    """Return a closed curve through points `(n, 2)` (Catmull-Rom)."""
    before, after, far = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
    t = (np.arange(steps) / steps)[:, None, None]
    curve = 0.5 * (
        2 * points + (after - before) * t + (2 * before - 5 * points + 4 * after - far) * t**2
        + (3 * points - before - 3 * after + far) * t**3
    )  # fmt: skip
    flat: Array = curve.transpose(1, 0, 2).reshape(-1, 2)
    return flat


def _spot(head: Head, at: tuple[float, float], radius: tuple[float, float]) -> Array:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + at
    return texture_positions(head, ring.astype(np.float32))


def _tint(texture: Array, head: Head, rng: np.random.Generator) -> None:
    """Paint uneven skin: blotches, pores, red cheeks, darker sockets, folds beside the mouth."""
    texture *= (1 + 0.05 * noise(TEXTURE, 7, rng) + 0.02 * noise(TEXTURE, 110, rng))[..., None]
    pale = np.array([0.0, 0.22, 0.24], np.float32)
    depth, folds = rng.uniform(0.03, 0.25), rng.uniform(0, 0.3)
    blush = rng.uniform(0, 0.6) * pale
    wing, corner = np.abs(head.layout[57]), np.abs(head.layout[84])
    fold = np.stack([wing, (wing + corner) / 2, corner]) + np.array([(0.03, 0), (0.12, 0), (0.08, 0.02)])
    for side in (-1, 1):
        _darken(texture, _cut([_spot(head, (side * 0.55, 0.5), (0.28, 0.24))], 12), blush)
        _darken(texture, _cut([_spot(head, (side * 0.43, -0.02), (0.27, 0.17))], 6), depth)
        line = texture_positions(head, (fold * (side, 1)).astype(np.float32))
        _darken(texture, _cut([line], 2.5, 2), folds)
    for _ in range(rng.poisson(2)):
        at = (rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 1.5))
        _darken(texture, _cut([_spot(head, at, (0.025, 0.025))], 0.8), rng.uniform(0.1, 0.5))


def _eyes(texture: Array, head: Head, skin: Array, rng: np.random.Generator) -> None:
    iris, white = _pick(_IRISES, rng), np.float32(rng.uniform(0.7, 0.95))
    lash = rng.uniform(0.1, 0.9)
    for rim, pupil in (([*range(66, 74)], head.pupils[0]), ([*range(75, 83)], head.pupils[1])):
        outline = _smooth(head.layout[rim])
        rim_line = texture_positions(head, outline)
        opening = _cut([rim_line], 0.5)
        whole = np.zeros((TEXTURE, TEXTURE, 1), np.float32)
        whole[opening.where] = opening.share
        _blend(texture, opening, white * np.array([1, 0.96, 0.94], np.float32))
        looks = (float(pupil[0]), float(pupil[1]))
        glint = (looks[0] + rng.uniform(-0.03, 0.03), looks[1] - 0.03)
        for at, radius, colour in (
            (looks, head.iris, iris),
            (looks, 0.4 * head.iris, 0.03),
            (glint, 0.018, 1.0),
        ):
            _blend(texture, _cut([_spot(head, at, (radius, radius))], 0.4) * whole, colour)
        upper = rim_line[: len(rim_line) // 2 + 1]
        _blend(texture, _cut([upper], 0.6, 1 + (lash > 0.5)) * (0.35 + 0.6 * lash), skin * 0.15)
        crease = texture_positions(head, head.layout[rim[:5]] - np.array([0, 0.07], np.float32))
        _blend(texture, _cut([crease], 1.2, 1) * 0.4, skin * 0.55)


def _brows(texture: Array, head: Head, hair: Array, rng: np.random.Generator) -> None:
    colour, strength = hair * rng.uniform(0.4, 0.9), rng.uniform(0.35, 0.95)
    rough = np.clip(1 + 0.35 * noise(TEXTURE, 120, rng), 0, 1)[..., None]
    for brow in (range(33, 42), range(42, 51)):
        area = texture_positions(head, _smooth(head.layout[list(brow)]))
        _blend(texture, _cut([area], rng.uniform(0.8, 1.8)) * strength * rough, colour)


def _mouth(texture: Array, head: Head, skin: Array, rng: np.random.Generator) -> None:
    outer = texture_positions(head, _smooth(head.layout[84:96]))
    inner_points = _smooth(head.layout[96:104])
    inner = texture_positions(head, inner_points)
    colour = np.clip(skin * np.array([0.85, 0.55, 0.55]) * rng.normal(1, 0.1, 3), 0, 1)
    if rng.random() < 0.25:
        colour = np.array([rng.uniform(0.4, 0.85), rng.uniform(0.02, 0.25), rng.uniform(0.05, 0.3)])
    _blend(texture, _cut([outer], 0.9) * rng.uniform(0.5, 1), colour.astype(np.float32))
    hollow = _cut([inner], 0.5)
    _blend(texture, hollow, np.array([0.16, 0.05, 0.05], np.float32))
    gap = head.layout[102, 1] - head.layout[98, 1]
    if gap > 0.05 and rng.random() < 0.85:
        teeth = inner_points.copy()
        teeth[:, 1] = np.minimum(teeth[:, 1], head.layout[98, 1] + rng.uniform(0.08, 0.16))
        tone = np.float32(rng.uniform(0.65, 0.95))
        row = _cut([texture_positions(head, teeth)], 0.6)
        _blend(texture, row, tone * np.array([1, 0.97, 0.9], np.float32))
    if gap > 0.2:
        tongue = _spot(head, (0, float(head.layout[102, 1]) - 0.1), (0.16, 0.08))
        _blend(texture, _cut([tongue], 2) * 0.8, np.array([0.6, 0.25, 0.25], np.float32))
    _blend(texture, _cut([inner], 0.5, 1, closed=True) * 0.7, skin * 0.2)


def _nose(texture: Array, head: Head) -> None:
    """Paint the nostrils, and the shadow between wings and cheek."""
    points = head.layout
    for x in points[[59, 61], 0]:
        _darken(
            texture, _cut([_spot(head, (float(x), float(points[60, 1]) - 0.035), (0.055, 0.03))], 1.2), 0.75
        )
    for line in (points[56:61], points[60:65]):
        _darken(texture, _cut([texture_positions(head, line)], 1.0, 1), 0.45)


def _beard(texture: Array, head: Head, hair: Array, rng: np.random.Generator) -> None:
    base, corner, chin = head.layout[60, 1], head.layout[84], head.chin
    ring = [(-1.2, 0.35), (-0.75, 0.7), (corner[0] - 0.1, base + 0.14), (0, base + 0.08)]
    ring += [(-x, y) for x, y in ring[-2::-1]] + [(1.3, chin + 0.3), (-1.3, chin + 0.3)]
    if rng.random() < 0.4:  # only a moustache, or only hair on the chin
        top, low = (base + 0.04, corner[1] - 0.02) if rng.random() < 0.5 else (corner[1] + 0.22, chin + 0.2)
        ring = [(-0.4, top), (0.4, top), (0.4, low), (-0.4, low)]
    area = texture_positions(head, np.array(ring, np.float32))
    rough = np.clip(0.75 + 0.3 * noise(TEXTURE, 150, rng), 0, 1)[..., None]
    _blend(texture, _cut([area], 5) * rough * rng.uniform(0.15, 0.95), hair * 0.8)


def _hair(texture: Array, hair: Array, rng: np.random.Generator) -> None:
    """Paint hair above a line from ear to ear; sometimes a fringe, sometimes none."""
    if rng.random() < 0.08:
        return
    turn = np.linspace(0, TEXTURE - 1, 40)
    side = np.abs(turn / (TEXTURE - 1) * 2 - 1)
    line = np.interp(
        side, [0, 0.35, 0.5, 0.62, 0.7, 1.0], [rng.uniform(-1.35, -0.62), -0.95, -0.45, 0.1, 0.6, 1.3]
    )
    line += rng.normal(0, 0.05, 40) + rng.normal(0, 0.1) * (turn / TEXTURE - 0.5)
    edge = np.stack([turn, (line - TOP) / SPAN * TEXTURE], axis=1)
    area = np.concatenate([edge, [[TEXTURE, -5], [-5, -5]]]).astype(np.float32)
    strands = cv2.resize(rng.normal(size=(6, 160)).astype(np.float32), (TEXTURE, TEXTURE))
    mask = _cut([area], rng.uniform(0.8, 4))
    _blend(texture, mask, np.clip(hair * (1 + 0.25 * strands[..., None]), 0, 1)[mask.where])
