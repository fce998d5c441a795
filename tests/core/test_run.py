import json

import pytest

from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.core.plots import plot_curves
from mmtoolkit.core.report import write_report
from mmtoolkit.core.run import RunDirectory, default_run_path


def test_a_run_writes_what_was_asked_and_where(tmp_path):
    run = RunDirectory.new(tmp_path / "run", "seed: 1\n")
    assert not run.path.exists()
    run.start()
    assert run.config_path.read_text() == "seed: 1\n"
    assert "torch" in json.loads((run.path / "env.json").read_text())["packages"]
    assert (run.path / "command.txt").read_text().startswith("mmtk")


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        RunDirectory.new(tmp_path, "")
    with pytest.raises(UsageError, match="not empty"):
        RunDirectory.new(tmp_path / "x", "")


def test_open_wants_a_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.yaml"):
        RunDirectory.open(tmp_path)


def test_metrics_rewind_and_skip_a_cut_line(tmp_path):
    run = RunDirectory(tmp_path)
    for epoch in range(1, 4):
        run.log_metrics({"epoch": epoch})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"epo')
    run.rewind_metrics("epoch", 2)
    assert [record["epoch"] for record in run.read_metrics()] == [1, 2]


def test_default_paths_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = default_run_path("recommend", "demo", 0)
    first.mkdir(parents=True)
    assert default_run_path("recommend", "demo", 0) != first


def test_report_is_one_page_with_pictures(tmp_path):
    records = [{"epoch": 1, "a": 0.5}, {"epoch": 2, "a": 0.7}]
    picture = plot_curves(records, ["a", "b"], tmp_path / "a.png", x="epoch", title="a", mark=2)
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert plot_curves(records, ["b"], tmp_path / "b.png", x="epoch", title="b") is None
    page = write_report(
        tmp_path / "r.html", "<t>", {"k": "v"}, {"T": (["m"], [["<1>"]])}, [picture], "seed: 1"
    )
    text = page.read_text()
    assert "&lt;t&gt;" in text
    assert "<td>&lt;1&gt;</td>" in text
    assert "data:image/png;base64," in text
