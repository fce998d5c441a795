"""The pages are true: Python blocks run, command lines parse, relative links resolve."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from mmtoolkit.commands.app import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKDOWN = [
    *ROOT.glob("*.md"),
    *(p for f in ("docs", "benchmarks", "mmtoolkit") for p in (ROOT / f).rglob("*.md")),
]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PREFIX = re.compile(r"^(?:\S+=\S+ )*(?:\S*/)?mmtk |^(?:accelerate|torchrun) .*-m mmtoolkit ")
PART = re.compile(r"\s(?:&&|\|\||[|;])\s")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the text of a page's fenced blocks of these languages (default: of any but Python)."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for _, kind, text in found if (kind in languages if languages else kind != "python")]


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of each `mmtk` call in the fenced blocks, without comments."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            for part in PART.split(line.strip()):
                if PREFIX.match(part):
                    yield shlex.split(PREFIX.sub("", part), comments=True)


def complaints(arguments: list[str]) -> list[str]:
    """Return what is wrong with a call: an unknown command, or options that it does not have."""
    command, path = typer.main.get_command(app), "mmtk"
    rest = list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        path, name = f"{path} {rest[0]}", rest.pop(0)
        if name not in command.commands:
            return [f"no such command: {path}"]
        command = command.commands[name]
    known = {option for p in command.params for option in [*p.opts, *p.secondary_opts]} | {"--help", "-h"}
    used = [word.split("=")[0] for word in rest if re.match(r"--?[A-Za-z0-9]", word)]
    used = [word for word in used if not re.match(r"-\d", word)]  # a negative number
    return [f"{path} has no {word}" for word in used if word not in known]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_python_blocks_run_in_an_empty_folder(page, tmp_path):
    """One process per page, one namespace for its blocks, each block named in the traceback."""
    code = "space = {'__name__': '__main__'}\n"
    for number, block in enumerate(blocks(page, "python"), 1):
        code += f"exec(compile({block!r}, '{name_of(page)}, Python block {number}', 'exec'), space)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_parse(page):
    assert [c for arguments in commands(page) for c in complaints(arguments)] == []


def test_every_guide_shows_commands():
    assert {name_of(page) for page in PAGES if not list(commands(page))} <= {"docs/architecture.md"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("recommend trian", ["no such command: mmtk recommend trian"]),
        ("recommend train --dry-rum", ["mmtk recommend train has no --dry-rum"]),
        ("landmarks complete a b --shift -1.5 -1.5 -h", []),
        ("distill sample --prompt=x --no-grid", []),
    ],
)
def test_a_wrong_command_line_is_found(line, complaint):
    assert complaints(shlex.split(line)) == complaint


@pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
def test_relative_links_resolve(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    missing = []
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (page.parent / target).resolve() if target else page
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}
        if not path.exists() or (anchor and anchor not in anchors):
            missing.append(link)
    assert missing == []
