import zipfile

import pytest

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.landmarks.data.text import write_points_txt
from mmtoolkit.landmarks.prediction.submission import check_submission, write_submission


def test_submissions_are_checked(tmp_path, shape):
    path = tmp_path / "s.zip"
    with pytest.raises(DataError, match=r"1 of 2 pictures have no face, the first is b\.jpg"):
        write_submission({"a.jpg": shape}, ["a.jpg", "b.jpg"], path)
    assert not path.exists()
    write_submission({"a.jpg": shape, "b.jpg": shape}, ["a.jpg", "b.jpg"], path)
    check_submission(path, ["a.jpg", "b.jpg"])
    with pytest.raises(DataError, match=r"lacks c\.jpg\.txt"):
        check_submission(path, ["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(DataError, match=r"not expected: b\.jpg\.txt"):
        check_submission(path, ["a.jpg"])
    with pytest.raises(UsageError, match="new file"):
        write_submission({"a.jpg": shape}, ["a.jpg"], path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.jpg.txt", write_points_txt(shape))
    with pytest.raises(DataError, match=r"holds a\.jpg\.txt twice"):
        check_submission(path, ["a.jpg", "b.jpg"])
