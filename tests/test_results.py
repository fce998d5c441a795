"""The figures of benchmarks/results.json are well formed, and the pages made from them are up to date."""

import importlib.util
from datetime import date
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "benchmarks" / "results.py"


def load_module():
    spec = importlib.util.spec_from_file_location("benchmark_results", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


results = load_module()
ENTRIES = results.load()


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "STORE", tmp_path / "results.json")
    monkeypatch.setattr(results.sys, "argv", ["benchmarks/some.py", "--record", "a b"])
    monkeypatch.setattr(results, "machine", lambda: "a machine")
    results.save([])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_an_entry_has_the_right_fields(entry):
    assert set(results.FIELDS) <= set(entry) <= {*results.FIELDS, *results.OPTIONAL}
    assert entry["engine"] in results.ENGINES
    assert entry["name"].startswith(entry["engine"] + ".")
    assert isinstance(entry["value"], int | float)
    assert date.fromisoformat(entry["date"])
    assert all(isinstance(entry[key], str) and entry[key] for key in ("what", "unit", "machine", "command"))
    assert entry["commit"] is None or len(entry["commit"]) == 7


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e["goal"]], ids=lambda entry: entry["name"])
def test_a_verdict_follows_from_its_goal(entry):
    assert entry["met"] in (True, False)
    assert results.is_met(entry["goal"], entry["value"]) in (entry["met"], None)
    assert entry["met"] or entry["note"], "a miss needs its reason"


def test_names_are_unique():
    names = [entry["name"] for entry in ENTRIES]
    assert len(names) == len(set(names))
    assert all(entry["met"] is None for entry in ENTRIES if entry["goal"] is None)


def test_pages_are_up_to_date():
    assert results.stale() == [], "run `make results`"
    assert len(results.PAGE.read_text(encoding="utf-8").splitlines()) <= 250


def test_the_short_table_has_every_engine():
    engines = [entry["engine"] for entry in ENTRIES if entry.get("headline")]
    assert 8 <= len(engines) <= 10
    assert set(engines) == set(results.ENGINES)


@pytest.mark.usefixtures("store")
def test_record_adds_and_replaces():
    results.record("distill.speed", 1.25, what="a speed", unit="times", goal=">= 1.3", note="the reason")
    results.record("distill.speed", 1.2345678)
    (entry,) = results.load()
    assert (entry["value"], entry["met"], entry["note"]) == (1.235, False, "the reason")
    assert entry["command"] == "python benchmarks/some.py 'a b'"
    results.record("distill.speed", 1.5)
    (entry,) = results.load()
    assert entry["met"] is True
    assert "note" not in entry


@pytest.mark.usefixtures("store")
def test_record_asks_what_a_new_figure_is():
    with pytest.raises(ValueError, match="is new"):
        results.record("distill.speed", 1.25)


def test_the_block_between_the_markers_is_filled():
    text = f"above\n{results.BEGIN}\nold\n{results.END}\nbelow\n"
    filled = results.with_headlines(text, ENTRIES)
    assert filled.startswith(f"above\n{results.BEGIN}\n| engine |")
    assert filled.endswith(f"|\n{results.END}\nbelow\n")
    assert results.with_headlines(filled, ENTRIES) == filled
    assert results.with_headlines("no markers", ENTRIES) == "no markers"
