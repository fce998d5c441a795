"""Head pose from points: the rotation that lays a mean face onto them."""

import numpy as np

from mmtoolkit.landmarks.points import Points

# Points that move little with expression: brow ends, nose, eye corners, mouth corners. From the neutral
# head of ICT-FaceKit (Li et al. 2020, MIT licence), made symmetric, in distances of the outer eye corners;
# x to the image's right, y down, z away from the viewer.
_MEAN_FACE: dict[int, tuple[float, float, float]] = {
    33: (-0.652, -0.399, 0.276),
    37: (-0.131, -0.479, -0.04),
    42: (0.131, -0.479, -0.04),
    46: (0.652, -0.399, 0.276),
    51: (0.0, -0.236, -0.041),
    52: (0.0, -0.111, -0.129),
    53: (0.0, 0.003, -0.217),
    54: (0.0, 0.138, -0.303),
    58: (-0.141, 0.312, -0.056),
    59: (-0.068, 0.312, -0.118),
    60: (0.0, 0.319, -0.134),
    61: (0.068, 0.312, -0.118),
    62: (0.141, 0.312, -0.056),
    66: (-0.5, -0.201, 0.198),
    70: (-0.207, -0.181, 0.132),
    75: (0.207, -0.181, 0.132),
    79: (0.5, -0.201, 0.198),
    84: (-0.284, 0.579, 0.02),
    90: (0.284, 0.579, 0.02),
}
_INDICES = np.array(list(_MEAN_FACE))
_SHAPE = np.array(list(_MEAN_FACE.values()))


def head_pose(points: Points, weights: Points | None = None) -> tuple[float, float, float]:
    """Estimate yaw, pitch and roll in degrees under weak perspective.

    The affine map from the mean face to the points is found by least squares and its two rows are
    replaced by the nearest orthonormal ones.

    Args:
        points: `(106, 2)` in JD order.
        weights: `(106,)`; points with 0 are left out. With fewer than six left, zeros are returned.

    Returns:
        Yaw (positive where the face looks to the image's right), pitch (positive down) and roll
        (positive clockwise): roll after pitch after yaw.
    """
    kept = slice(None) if weights is None else weights[_INDICES] > 0
    shape, seen = _SHAPE[kept], points[_INDICES][kept].astype(np.float64)
    if len(shape) < 6:
        return 0.0, 0.0, 0.0
    affine = np.linalg.lstsq(shape - shape.mean(0), seen - seen.mean(0), rcond=None)[0].T
    left, _, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    rotation = np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])])
    yaw = np.arctan2(rotation[2, 0], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[2, 1], -1, 1))
    roll = np.arctan2(-rotation[0, 1], rotation[1, 1])
    found = np.degrees([yaw, pitch, roll])
    return float(found[0]), float(found[1]), float(found[2])
