import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_is_listed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    inside = {".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("mmtoolkit/**/__init__.py")}
    beside = [*ROOT.glob("commands/**/__init__.py"), ROOT / "configs" / "__init__.py"]
    mapped = {".".join(("mmtoolkit", *p.parent.relative_to(ROOT).parts)) for p in beside}
    assert set(settings["packages"]) == inside | mapped


def test_wheel_works_outside_the_checkout(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("mmtoolkit", "commands", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    assert (site / "mmtoolkit" / "distill" / "weights" / "student.safetensors").is_file()
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
        ).stdout

    assert str(site) in run(
        "-c", "import mmtoolkit, mmtoolkit.commands as c; print(mmtoolkit.__file__, c.__file__)"
    )
    assert run("-m", "mmtoolkit", "--version").startswith("mmtk ")
    assert "igdmrec" in run("-m", "mmtoolkit", "config", "list")
