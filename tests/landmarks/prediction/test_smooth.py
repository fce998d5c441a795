import numpy as np
import pytest

from mmtoolkit.landmarks.prediction.smooth import OneEuroFilter, Tracker


def jitter(frames):
    return np.linalg.norm(np.diff(frames, axis=0), axis=-1).mean()


def test_smoothing_reduces_the_jitter_of_a_still_face(shape):
    rng = np.random.default_rng(0)
    noisy = shape + rng.normal(0, 0.5, (200, 106, 2)).astype(np.float32)
    smooth = OneEuroFilter(rate=30)
    filtered = np.stack([smooth(frame) for frame in noisy])
    assert jitter(filtered[20:]) < jitter(noisy[20:]) / 3


@pytest.mark.parametrize("speed", [1.0, 2.0, 4.0])
def test_smoothing_follows_a_moving_face(shape, speed):
    """Delay under two frames at `speed` pixels per frame for a face of 100 pixels, noise included."""
    rng = np.random.default_rng(0)
    moving = shape + speed * np.arange(90, dtype=np.float32)[:, None, None] * [1, 0]
    noisy = (moving + rng.normal(0, 0.3, moving.shape)).astype(np.float32)
    smooth = OneEuroFilter(rate=30)
    filtered = np.stack([smooth(frame) for frame in noisy])
    delay = (moving - filtered)[45:, :, 0].mean() / speed
    assert delay < 2


def test_faces_keep_their_numbers(shape):
    tracker = Tracker(smooth=False)
    other = shape + 400
    assert tracker.update(np.stack([shape, other]))[0] == [0, 1]
    assert tracker.update(np.stack([other + 3, shape + 3]))[0] == [1, 0]
    assert tracker.update(np.stack([shape + 5]))[0] == [0]
    assert tracker.update(np.stack([shape + 5, other]))[0] == [0, 2]
    assert tracker.update(np.empty((0, 106, 2), np.float32))[0] == []
