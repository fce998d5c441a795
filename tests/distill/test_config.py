"""The table of what each command reads."""

from mmtoolkit.core.config import setting_names
from mmtoolkit.distill.config import READ_BY, DistillSettings

NAMES = list(setting_names(DistillSettings))


def test_the_table_names_settings_that_exist():
    for start, (deciding, readers) in READ_BY.items():
        assert [name for name in NAMES if name.startswith(start)]
        assert deciding == "command" or deciding in NAMES
        assert readers
