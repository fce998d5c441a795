"""The three engines have one layout; docs/architecture.md describes it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("recommend", "distill", "landmarks")
FOLDERS = ("data", "models", "training", "evaluation")
FILES = {
    "recommend": ("config", "load", "report", "train", "evaluate", "compare", "export", "predict"),
    "distill": ("config", "load", "report", "train", "evaluate", "compare", "export", "sample"),
    "landmarks": ("config", "load", "report", "train", "evaluate", "compare", "export", "predict"),
}


def modules(*folders: str) -> dict[str, Path]:
    """Return the modules below some folders of the checkout, by dotted name."""
    found = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, known: set[str]) -> set[str]:
    """Return the modules that a module imports, inside its functions too, but not for type checkers alone."""
    found: set[str] = set()
    open_nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if inner in known else node.module)
        if not is_type_checking(node):
            open_nodes += ast.iter_child_nodes(node)
    return found & known


def test_no_import_circles():
    paths = modules("mmtoolkit")
    open_modules = {name: imports(path, set(paths)) - {name} for name, path in paths.items()}
    while free := [name for name, needed in open_modules.items() if not needed & open_modules.keys()]:
        for name in free:
            del open_modules[name]
    assert {name: sorted(needed & open_modules.keys()) for name, needed in open_modules.items()} == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_have_the_same_files_and_folders(engine):
    root = ROOT / "mmtoolkit" / engine
    assert [name for name in FILES[engine] if not (root / f"{name}.py").is_file()] == []
    assert [name for name in FOLDERS if not (root / name / "__init__.py").is_file()] == []
    assert (root / "data" / "synthetic.py").is_file()
    functions = {
        n.name for n in ast.parse((root / "load.py").read_text()).body if isinstance(n, ast.FunctionDef)
    }
    assert "load" in functions


@pytest.mark.parametrize("folder", ["mmtoolkit", "commands", "tests"])
def test_folders_stay_small(folder):
    counts = {p: len(list(p.glob("*.py"))) for p in (ROOT / folder).rglob("*") if p.is_dir()}
    assert {str(path): count for path, count in counts.items() if count > 16} == {}


def test_commands_stay_thin():
    """Commands are wrappers of at most 25 lines, signature and docstring included; five may be longer."""
    long = {}
    for name, path in modules("commands").items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                "command(" in ast.unparse(d) for d in node.decorator_list
            ):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long |= {f"{name}.{node.name}": lines} if lines > 25 else {}
    assert len(long) <= 5, long


@pytest.mark.parametrize(
    ("text", "home"),
    [
        ("pip install", "core/extras.py"),
        ("not empty; name another", "core/run.py"),
        ("_foreach_lerp_", "core/training.py"),
        ("the loss is {", "core/training.py"),
        ("AveragedModel", None),
        ("OneCycleLR", None),
    ],
)
def test_what_the_engines_share_is_written_once(text, home):
    holders = {
        path.relative_to(ROOT / "mmtoolkit").as_posix()
        for path in modules("mmtoolkit").values()
        if text in path.read_text(encoding="utf-8")
    }
    assert holders == ({home} if home else set())
