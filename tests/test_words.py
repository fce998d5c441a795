"""The project is written in plain English: some words of older versions stay out."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("mmtoolkit", "commands", "configs", "tests", "benchmarks", "docs")
WORDS = re.compile(
    r"\b(told|tells?(?!\()|anew|likewise|nobody|for want of|as it is|that (is|are) there|lies? (off|at)"
    r"|stands? (at|in|as)|speaks? for|hands? over|one a line|mean nothing beyond|twelfth)\b",
    re.IGNORECASE,
)
NAMES = {"halves", "few", "place", "apart", "again", "told", "there"}
FILES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.*"))]
    if path.suffix in {".py", ".md", ".yaml"} and path != Path(__file__).resolve()
)


def names_of(tree: ast.AST) -> set[str]:
    """Collect what a module defines: functions, classes, arguments, variables and fields."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_words_are_plain(path):
    text = path.read_text(encoding="utf-8")
    lines = enumerate(text.splitlines(), 1)
    assert [f"{n}: {line.strip()}" for n, line in lines if WORDS.search(line)] == []
    if path.suffix == ".py":
        assert names_of(ast.parse(text)) & NAMES == set()
