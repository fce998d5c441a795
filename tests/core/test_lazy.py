import subprocess
import sys

import pytest

PACKAGE = {
    "__init__.py": "from mmtoolkit.core.lazy import export\n__all__ = export(__name__, {'train': 'train'})\n",
    "train.py": "def train():\n    return 'trained'\n",
}


@pytest.mark.parametrize(
    "first", ["", "from lazy_package.train import train as _", "import lazy_package.train"], ids=str
)
def test_a_function_may_have_the_name_of_its_module(tmp_path, first):
    folder = tmp_path / "lazy_package"
    folder.mkdir()
    for name, text in PACKAGE.items():
        (folder / name).write_text(text)
    code = (
        f"import sys, lazy_package\nassert 'lazy_package.train' not in sys.modules\n{first}\n"
        "print(lazy_package.train(), lazy_package.__all__, dir(lazy_package))\n"
        "try: lazy_package.nothing\nexcept AttributeError as error: print(error)"
    )
    path = [str(tmp_path), *sys.path]
    run = [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}\n{code}"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    lines = ["trained ['train'] ['train']", "module 'lazy_package' has no attribute 'nothing'"]
    assert done.stdout.splitlines() == lines
