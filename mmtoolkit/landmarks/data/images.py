"""Read pictures and cut faces out of them."""

import cv2
import numpy as np

from mmtoolkit.core.errors import DataError
from mmtoolkit.landmarks.data.face import Boxes, Image
from mmtoolkit.landmarks.data.points import Points
from mmtoolkit.landmarks.data.text import AnyPath, read_bytes, shown_path

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Suffixes of pictures."""


def read_image(path: AnyPath) -> Image:
    """Read a picture as `(height, width, 3)` RGB; EXIF rotation is applied, transparency dropped.

    Raises:
        DataError: if it is missing or no picture.
    """
    return decode_image(np.frombuffer(read_bytes(path), np.uint8), path)


def decode_image(data: Image, path: AnyPath) -> Image:
    """Decode the bytes `(n,)` of a picture read from `path`; see :func:`read_image`."""
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # such as a picture that is too large
        image = None
    if image is None:
        raise DataError("cannot be read as a picture", path=shown_path(path))
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def encode_image(image: Image, suffix: str = ".jpg") -> bytes:
    """Encode an RGB picture as the format that `suffix` names (JPEG at quality 95)."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix in {".jpg", ".jpeg"} else []
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    assert done
    return data.tobytes()


def square_boxes(boxes: Boxes, scale: float = 1.0) -> Boxes:
    """Return the squares that a network sees: same centre, side `scale` times the longer side.

    Args:
        boxes: `(n, 4)` left, top, right, bottom.
        scale: factor on the longer side of the box.

    Returns:
        `(n, 3)` left, top, side.
    """
    side = scale * (boxes[:, 2:4] - boxes[:, :2]).max(1, keepdims=True)
    centre = (boxes[:, :2] + boxes[:, 2:4]) / 2
    return np.concatenate([centre - side / 2, side], axis=1).astype(np.float32)


def crop_squares(image: Image, squares: Boxes, size: int, out: Image | None = None) -> Image:
    """Cut squares out of a picture and scale them to `size` pixels; black beyond the border.

    Args:
        image: `(height, width, 3)`.
        squares: `(n, 3)` left, top, side in pixels, see :func:`square_boxes`.
        size: side of the result.
        out: `(n, size, size, 3)` to write to.

    Returns:
        `(n, size, size, 3)` uint8. Crop pixel i is at `left + (i + 0.5) / size * side - 0.5`.
    """
    crops = np.empty((len(squares), size, size, 3), np.uint8) if out is None else out
    for crop, (left, top, side) in zip(crops, squares.tolist(), strict=True):
        _crop(image, left, top, side, size, crop)
    return crops


def _crop(image: Image, left: float, top: float, side: float, size: int, out: Image) -> None:
    source, origin = image, np.zeros(2)
    shrink = int(side // size)
    if shrink > 1:
        # bilinear sampling alone would alias: average blocks of pixels first, then sample the averages
        x0, y0 = max(0, int(left)), max(0, int(top))
        x1, y1 = min(image.shape[1], int(left + side) + 1), min(image.shape[0], int(top + side) + 1)
        width, height = (x1 - x0) // shrink, (y1 - y0) // shrink
        if width < 1 or height < 1:
            out[:] = 0
            return
        region = image[y0 : y0 + height * shrink, x0 : x0 + width * shrink]
        source = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        origin = np.array([x0, y0])
    else:
        shrink = 1
    step = side / size / shrink
    # centres of pixels: u -> left + (u + 0.5) * side / size - 0.5, then into the shrunken region
    start = (np.array([left, top]) - origin) / shrink + 0.5 * step - 0.5
    matrix = np.array([[step, 0, start[0]], [0, step, start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(source, matrix, (size, size), dst=out, flags=flags, borderMode=cv2.BORDER_CONSTANT)


def to_square(points: Points, squares: Boxes) -> Points:
    """Turn pixels `(n, k, 2)` into shares of the squares `(n, 3)`, 0 and 1 at the borders."""
    return ((points + 0.5 - squares[:, None, :2]) / squares[:, None, 2:]).astype(np.float32)


def from_square(points: Points, squares: Boxes) -> Points:
    """Turn shares of the squares `(n, 3)` back into pixels `(n, k, 2)`."""
    return (points * squares[:, None, 2:] + squares[:, None, :2] - 0.5).astype(np.float32)
