"""Head pose from points: the rotation that maps a mean face onto them."""

import numpy as np

from mmtoolkit.landmarks.data.points import FLIP, Points

# Brows, nose, lids and mouth corners of ICT-FaceKit's neutral head (Li et al. 2020, MIT licence), made
# symmetric; this is the image's left half. In distances of the outer eye corners, from the midpoint
# between them: x to the image's right, y down, z towards the viewer. With fewer points, the depth of the nose
# would decide the frontal direction, and noses differ.
_LEFT: dict[int, tuple[float, float, float]] = {
    33: (-0.652, -0.198, -0.078),
    34: (-0.553, -0.285, 0.043),
    35: (-0.425, -0.317, 0.137),
    36: (-0.271, -0.309, 0.211),
    37: (-0.131, -0.278, 0.238),
    38: (-0.162, -0.198, 0.223),
    39: (-0.289, -0.226, 0.203),
    40: (-0.429, -0.227, 0.150),
    41: (-0.537, -0.212, 0.086),
    51: (0.0, -0.035, 0.239),
    52: (0.0, 0.089, 0.327),
    53: (0.0, 0.204, 0.415),
    54: (0.0, 0.339, 0.501),
    55: (-0.127, 0.035, 0.132),
    56: (-0.185, 0.334, 0.233),
    57: (-0.221, 0.495, 0.196),
    58: (-0.141, 0.513, 0.254),
    59: (-0.068, 0.512, 0.316),
    60: (0.0, 0.520, 0.332),
    66: (-0.500, 0.0, 0.0),
    67: (-0.475, -0.038, 0.064),
    68: (-0.374, -0.057, 0.099),
    69: (-0.263, -0.043, 0.101),
    70: (-0.207, 0.020, 0.066),
    71: (-0.257, 0.034, 0.090),
    72: (-0.370, 0.042, 0.084),
    73: (-0.475, 0.033, 0.052),
    84: (-0.284, 0.780, 0.178),
}
_MEAN_FACE = _LEFT | {FLIP[point]: (-x, y, z) for point, (x, y, z) in _LEFT.items()}
_INDICES = np.array(list(_MEAN_FACE))
_SHAPE = np.array(list(_MEAN_FACE.values()))


def head_pose(points: Points, weights: Points | None = None) -> tuple[float, float, float]:
    """Estimate yaw, pitch and roll in degrees under weak perspective.

    The affine map from the mean face to the points is found by least squares; its two rows are replaced by
    the nearest orthonormal ones (polar decomposition).

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
    (xx, xy, xz), (yx, yy, yz) = left @ right
    forward_x, forward_y, forward_z = xy * yz - xz * yy, xz * yx - xx * yz, xx * yy - xy * yx
    yaw = np.arctan2(-forward_x, forward_z)
    pitch = np.arcsin(np.clip(-forward_y, -1, 1))
    roll = np.arctan2(-xy, yy)
    found = np.degrees([yaw, pitch, roll])
    return float(found[0]), float(found[1]), float(found[2])
