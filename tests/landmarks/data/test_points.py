import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmtoolkit.core.errors import UsageError
from mmtoolkit.landmarks.data import points
from mmtoolkit.landmarks.data.points import (
    FLIP,
    NAMES,
    PARTS,
    SCHEMES,
    SUBSET_79,
    conversion,
)

shapes = arrays(np.float32, (106, 2), elements=st.floats(-500, 500, width=32))


def mirrored(points, width):
    """Mirror points together with a picture of this width."""
    return points[FLIP] * [-1, 1] + [width - 1, 0]


@given(shapes, st.integers(1, 2000))
def test_two_flips_are_none(shape, width):
    np.testing.assert_allclose(mirrored(mirrored(shape, width), width), shape, atol=1e-3)


@pytest.mark.parametrize("scheme", ["jd106", "insightface106", "sensetime106", "wflw98"])
@given(data=st.data())
def test_orders_round_trip(scheme, data):
    size = (SCHEMES[scheme], 2)
    found = data.draw(arrays(np.float32, size, elements=st.floats(-500, 500, width=32)))
    jd, known = conversion(scheme, "jd106")(found)
    back, known_back = conversion("jd106", scheme)(jd, known)
    assert known_back.all()
    np.testing.assert_allclose(back, found, atol=1e-4)


def test_tables_are_complete():
    assert sorted(FLIP) == list(range(106))
    assert sorted(i for part in PARTS.values() for i in part) == list(range(106))
    assert len(SUBSET_79) == len(set(SUBSET_79)) == 79
    assert len(set(NAMES)) == 106
    swap = str.maketrans({"<": ">", ">": "<"})
    for index, name in enumerate(NAMES):
        mirrored = name.replace("left", "<").replace("right", ">").translate(swap)
        assert NAMES[FLIP[index]] == mirrored.replace("<", "left").replace(">", "right")


def test_flipping_a_scheme_that_maps_from_jd_agrees_with_jd():
    """The 68 map is symmetric: converting a mirrored face gives the mirrored 68 points."""
    ibug_flip = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    ibug_flip += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1)]
    ibug_flip += [64, 63, 62, 61, 60, 67, 66, 65]
    matrix = conversion("jd106", "ibug68").matrix
    np.testing.assert_allclose(matrix[ibug_flip], matrix[:, FLIP], atol=1e-9)
    back = conversion("ibug68", "jd106").matrix
    np.testing.assert_allclose(back[FLIP], back[:, ibug_flip], atol=1e-9)


@pytest.mark.parametrize("source", SCHEMES)
@pytest.mark.parametrize("target", SCHEMES)
def test_conversions_commute_with_a_shift(source, target):
    """Rows of known points sum to 1: a face that moves is converted to one that moved as much."""
    found = conversion(source, target)
    assert found.matrix.shape == (SCHEMES[target], SCHEMES[source])
    np.testing.assert_allclose(found.matrix.sum(1), found.known, atol=1e-9)


def test_points_that_ibug_lacks_are_unknown():
    known = conversion("ibug68", "jd106").known
    assert not known[[0, 32, 38, 49, 55, 65, 74, 104]].any()
    assert known[[2, 16, 30, 33, 37, 54, 60, 66, 68, 84, 95, 97, 103]].all()
    matrix = conversion("jd106", "ibug68").matrix
    assert matrix[37, 67] == matrix[37, 68] == 0.5  # between two points of the upper lid
    assert matrix[67, 102] == matrix[67, 103] == 0.5  # the inner lip's last place lies before its end


def test_an_absent_source_makes_the_target_unknown():
    present = np.ones(106, bool)
    present[67] = False
    shape = np.full((106, 2), 7, np.float32)
    shape[67] = np.nan
    found, known = conversion("jd106", "ibug68")(shape, present)
    assert list(np.flatnonzero(~known)) == [37]
    assert np.isfinite(found).all()


def test_an_unknown_scheme_gets_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'wflw98'"):
        conversion("jd106", "wflw89")(np.zeros((106, 2), np.float32))


def test_mediapipe_vertices_are_those_of_its_mesh():
    assert max(points._MEDIAPIPE) < 478
    assert points._MEDIAPIPE[104:] == [468, 473]  # iris centres
