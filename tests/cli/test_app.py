import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from mmtoolkit.commands.app import app
from mmtoolkit.commands.config import ENGINES

from mmtoolkit import __version__

HEAVY = [
    "torch",
    "numpy",
    "scipy",
    "matplotlib",
    "diffusers",
    "transformers",
    "torch_geometric",
    "peft",
    "face_alignment",
    "PIL",
    "pydantic",
]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recommend", "train", "--help"],
        ["recommend", "study", "ablation", "-h"],
        ["distill", "sample", "--help"],
        ["landmarks", "eval", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom mmtoolkit.commands.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def options_by_command(command, name=""):
    """Walk the command tree: {"recommend train": ["--config", ...], ...}."""
    leaves = getattr(command, "commands", None)
    if leaves is None:
        options = {o for p in command.params for o in p.opts if o.startswith("--") and o != "--help"}
        return {name: sorted(options)}
    found = {}
    for leaf, inner in leaves.items():
        found |= options_by_command(inner, f"{name} {leaf}".strip())
    return found


@pytest.mark.parametrize("group", [*ENGINES, "config", "env"])
def test_commands_and_options_are_the_frozen_ones(group):
    """Run with MMTK_FREEZE=1 to accept a change that is meant."""
    found = options_by_command(typer.main.get_command(app).commands[group], group)
    path = Path(__file__).parent / "frozen" / f"{group}.json"
    if os.environ.get("MMTK_FREEZE"):
        path.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(path.read_text())


def test_version(mmtk):
    assert mmtk("--version").stdout.strip() == f"mmtk {__version__}"


def test_typos_get_a_suggestion(mmtk):
    result = mmtk("recommend", "trian")
    assert result.exit_code == 2
    assert "train" in result.stderr
    result = mmtk("recommend", "train", "--dry-rum")
    assert result.exit_code == 2
    assert "--dry-run" in result.stderr


def test_env_as_text_and_json(mmtk):
    assert "torch" in mmtk("env").stdout
    assert json.loads(mmtk("env", "--json").stdout)["mmtoolkit"] == __version__


def test_debug_keeps_the_traceback(mmtk):
    result = mmtk("recommend", "train", "--data", "nowhere", "--debug")
    assert type(result.exception).__name__ == "DataError"


def test_interrupt_exits_130(mmtk, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["mmtoolkit.recommend.train"], "train", interrupted)
    result = mmtk("recommend", "train", "--data", "demo")
    assert result.exit_code == 130
    assert "--resume" in result.stderr
