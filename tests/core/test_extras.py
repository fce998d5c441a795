import re

import pytest

from mmtoolkit.core import extras
from mmtoolkit.core.errors import UsageError


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match=r"tuning needs no_such_package: pip install -e '.*\[tune\]'"):
        extras.need("no_such_package", "tune", "tuning")
    monkeypatch.setattr(extras, "_CHECKOUT", tmp_path)
    with pytest.raises(UsageError, match=re.escape("pip install 'mmtk[tune]'")):
        extras.need("no_such_package", "tune", "tuning")


def test_an_installed_package_is_returned():
    assert extras.need("json", "tune", "tuning").loads("1") == 1
