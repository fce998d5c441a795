"""Keep the measured figures in results.json, and render RESULTS.md and the table of README.md from them.

    python benchmarks/results.py            # write both files
    python benchmarks/results.py --check    # exit with 1 when one of them is stale

A benchmark that is called with `--record` writes its figures through `record`. A plain run writes nothing.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STORE, PAGE, README = HERE / "results.json", HERE / "RESULTS.md", HERE.parent / "README.md"
PUBLISHED = HERE / "published.json"
ENGINES = ("recommend", "landmarks", "distill")
FIELDS = ("name", "engine", "what", "goal", "value", "unit", "met", "date", "machine", "commit", "command")
OPTIONAL = ("note", "headline")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

Entry = dict[str, Any]


def load() -> list[Entry]:
    found: list[Entry] = json.loads(STORE.read_text(encoding="utf-8"))
    return found


def save(entries: list[Entry]) -> None:
    STORE.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def is_met(goal: str | None, value: float) -> bool | None:
    """Compare a value with a goal such as `>= 3.5`; None where the goal is absent or is not a number."""
    match = re.fullmatch(r"(<=|>=) (\d[\d.]*(?:e-?\d+)?)", goal or "")
    if match is None:
        return None
    limit = float(match[2])
    return value >= limit if match[1] == ">=" else value <= limit


def record(
    name: str,
    value: float,
    *,
    what: str | None = None,
    unit: str | None = None,
    goal: str | None = None,
    note: str | None = None,
) -> None:
    """Add a figure to results.json, or replace it, with the date, machine, commit and command of this run.

    What a known figure is, its unit and its goal stay unless they are given. Its note stays while the goal
    is still missed, as it holds the reason; otherwise it described the earlier run and goes.

    Raises:
        ValueError: the figure is new, and `what` or `unit` is missing.
    """
    entries = load()
    known: Entry = next((entry for entry in entries if entry["name"] == name), {})
    what, unit, goal = what or known.get("what"), unit or known.get("unit"), goal or known.get("goal")
    if what is None or unit is None:
        raise ValueError(f"{name} is new: say what it is and its unit")
    met = is_met(goal, value)
    if met is None and goal:
        met = known.get("met", False)  # a goal in words: a person decides
    entry: Entry = {
        "name": name,
        "engine": name.split(".", maxsplit=1)[0],
        "what": what,
        "goal": goal,
        "value": float(f"{value:.4g}"),
        "unit": unit,
        "met": met,
        "date": date.today().isoformat(),
        "machine": machine(),
        "commit": current_commit(),
        "command": "python " + shlex.join(word for word in sys.argv if word != "--record"),
    }
    kept = note or (known.get("note") if met is False else None)
    entry |= {"note": kept} if kept else {}
    entry |= {"headline": True} if known.get("headline") else {}
    if known:
        entries[entries.index(known)] = entry
    else:
        entries.append(entry)
    save(entries)


def machine() -> str:
    """Describe the processor and the number of cores in use."""
    from mmtoolkit.core.run import environment

    found = environment()
    return f"{found['cpu']}, {found['cores']} cores"


def current_commit() -> str | None:
    command = ["git", "rev-parse", "--short=7", "HEAD"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def shown(entry: Entry) -> str:
    value = entry["value"]
    return f"{value:,}" if abs(value) >= 1000 else f"{value:g}"


def verdict(entry: Entry) -> str:
    return {None: "", True: "yes", False: "**missed**"}[entry["met"]]


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(cells)} |"
        for cells in [head, ["---"] * len(head), *([cell(c) for c in r] for r in rows)]
    ]


def page(entries: list[Entry]) -> str:
    """Render RESULTS.md: what was missed, then a table and the commands of each engine."""
    lines = [
        "# Results",
        "",
        "Made from [results.json](results.json) by `make results`; do not edit this page. Reasons and",
        "history are in [NOTES.md](NOTES.md). Compare times only within one machine. The commit and the",
        "command of every figure are in results.json.",
        "",
        "## Goals at a glance",
        "",
    ]
    with_goal = [entry for entry in entries if entry["met"] is not None]
    counts = []
    for engine in ENGINES:
        own = [entry["met"] for entry in with_goal if entry["engine"] == engine]
        counts.append([engine, str(len(own)), str(sum(own)), str(len(own) - sum(own))])
    lines += [*table(["engine", "goals", "met", "missed"], counts), ""]
    missed = [
        [entry["what"], shown(entry) + " " + entry["unit"], entry["goal"], entry.get("note", "")]
        for entry in with_goal
        if not entry["met"]
    ]
    lines += table(["missed", "value", "goal", "reason"], missed)
    for engine in ENGINES:
        own = [entry for entry in entries if entry["engine"] == engine]
        rows = [
            [
                entry["what"],
                shown(entry),
                entry["unit"],
                entry["goal"] or "",
                verdict(entry),
                entry["date"],
                entry["machine"],
            ]
            for entry in own
        ]
        lines += ["", f"## {engine}", ""]
        lines += table(["what", "value", "unit", "goal", "met", "date", "machine"], rows)
    lines += ["", "## Commands", "", "These measure the figures that have a goal.", ""]
    lines += [f"    {command}" for command in dict.fromkeys(entry["command"] for entry in with_goal)]
    return "\n".join(lines) + "\n"


def headlines(entries: list[Entry]) -> str:
    """Render the short table of README.md."""
    rows = [
        [
            entry["engine"],
            entry["what"],
            f"{shown(entry)} {entry['unit']}",
            entry["goal"] or "",
            verdict(entry),
            entry["date"],
        ]
        for entry in entries
        if entry.get("headline")
    ]
    return "\n".join(table(["engine", "what", "value", "goal", "met", "date"], rows))


def comparison(entries: list[Entry]) -> str:
    """Render our accuracy beside the published figures of published.json."""
    stored = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    values = {entry["name"]: entry["value"] for entry in entries}
    rows = [(name, found) for name, found in stored["published"].items()]
    for name, sets in stored["ours"].items():
        found = {one: [values[f"{start}.recall20"], values[f"{start}.ndcg20"]] for one, start in sets.items()}
        rows.append((f"**{name}**", found))
    rows.sort(key=lambda row: -row[1].get("baby", [0])[0])
    pairs = [
        [
            name,
            *(" / ".join(f"{v:.4f}".lstrip("0") for v in found.get(one, ())) for one in ("baby", "sports")),
        ]
        for name, found in rows
    ]
    head = [
        f"Recall@20 / NDCG@20; published figures as of {stored['searched']}",
        "Amazon Baby",
        "Amazon Sports",
    ]
    return "\n".join(table(head, pairs))


def with_headlines(text: str, entries: list[Entry]) -> str:
    """Fill the block between the markers of README.md; without markers the text stays."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        return text
    return f"{before}{begin}\n{headlines(entries)}\n\n{comparison(entries)}\n{end}{after}"


def rendered() -> dict[Path, str]:
    """Return what RESULTS.md and README.md should hold."""
    entries = load()
    files = {PAGE: page(entries)}
    if README.exists():
        files[README] = with_headlines(README.read_text(encoding="utf-8"), entries)
    return files


def stale() -> list[Path]:
    return [
        path
        for path, text in rendered().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def render() -> None:
    """Write RESULTS.md and the table of README.md."""
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 when a file is stale"
    )
    if not parser.parse_args().check:
        render()
    elif files := stale():
        sys.exit(f"stale: {', '.join(path.name for path in files)}; run `make results`")


if __name__ == "__main__":
    main()
