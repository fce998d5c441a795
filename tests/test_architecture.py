"""What docs/architecture.md says of files, functions and names is true."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
PATHS = [text for text in QUOTED if re.fullmatch(r"(mmtoolkit|commands|tests|docs)/[\w/.]*", text)]
CORE = [row.split("|")[1:3] for row in TEXT.splitlines() if row.startswith("| `mmtoolkit/core/")]


def test_the_page_names_files():
    assert len(PATHS) > 40
    assert len(CORE) == 9


@pytest.mark.parametrize("path", PATHS)
def test_files_exist(path):
    found = ROOT / path
    assert found.is_dir() if path.endswith("/") else found.is_file()


@pytest.mark.parametrize(("module", "text"), CORE)
def test_core_modules_have_what_is_said(module, text):
    found = importlib.import_module(module.strip(" `").removesuffix(".py").replace("/", "."))
    for name in re.findall(r"`([A-Za-z_.]+)`", text):
        value = found
        for part in name.split("."):
            value = getattr(value, part)


@pytest.mark.parametrize("engine", ["recommend", "distill", "landmarks"])
def test_engines_have_what_is_said(engine):
    settings = importlib.import_module(f"mmtoolkit.{engine}.config")
    assert settings.READ_BY
    public = importlib.import_module(f"mmtoolkit.{engine}")
    assert {"train", "evaluate", "load"} <= set(public.__all__)
    assert all(callable(getattr(public, name)) for name in ("train", "evaluate", "load"))
