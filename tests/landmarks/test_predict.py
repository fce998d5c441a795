import pytest

from mmtoolkit.core.errors import UsageError
from mmtoolkit.landmarks.predict import parse_box


@pytest.mark.parametrize("given", ["1,2,3", "1,2,x,4", "5,5,5,9", "1,2,nan,4"])
def test_bad_boxes_are_refused(given):
    with pytest.raises(UsageError, match="left,top,right,bottom"):
        parse_box(given)
