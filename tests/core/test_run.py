import json

import pytest
import torch

from mmtoolkit.core.checkpoint import Checkpoint, save_checkpoint
from mmtoolkit.core.config import Settings, config_layer
from mmtoolkit.core.errors import CheckpointError, UsageError
from mmtoolkit.core.plots import plot_curves
from mmtoolkit.core.report import draw_curves, write_report, write_run_report
from mmtoolkit.core.run import RunDirectory, check_new, default_run_path


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


def test_report_is_one_page_with_plots(tmp_path):
    records = [{"epoch": 1, "a": 0.5}, {"epoch": 2, "a": 0.7}]
    plot = plot_curves(records, ["a", "b"], tmp_path / "a.png", x="epoch", title="a", mark=2)
    assert plot is not None
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot_curves(records, ["b"], tmp_path / "b.png", x="epoch", title="b") is None
    page = write_report(tmp_path / "r.html", "<t>", {"k": "v"}, {"T": (["m"], [["<1>"]])}, [plot], "seed: 1")
    text = page.read_text()
    assert "&lt;t&gt;" in text
    assert "<td>&lt;1&gt;</td>" in text
    assert "data:image/png;base64," in text


class Tiny(Settings):
    seed: int = 3


def test_a_path_plans_a_run_with_its_settings(tmp_path):
    run = RunDirectory.of(tmp_path / "run", Tiny())
    run.start()
    assert config_layer("", str(run.config_path)).values == {"seed": 3}
    assert RunDirectory.of(tmp_path / "run", Tiny(), resume=True).path == run.path
    assert RunDirectory.of(run, Tiny()) is run


def test_a_run_or_one_of_its_checkpoints_is_located(tmp_path):
    run = RunDirectory.new(tmp_path / "run", "seed: 1\n")
    run.start()
    for step, best in ((1, True), (2, False)):
        save_checkpoint(run.checkpoints, step, Checkpoint({"w": torch.zeros(1)}, {}, {}), best=best)
    assert RunDirectory.locate(run.path)[1].name == "000001"
    found, checkpoint = RunDirectory.locate(run.checkpoints / "000002")
    assert (found.path, checkpoint.name) == (run.path, "000002")
    run.checkpoints.joinpath("best").unlink()
    assert RunDirectory.locate(run.path)[1].name == "000002"
    with pytest.raises(CheckpointError, match="no such run"):
        RunDirectory.locate(tmp_path / "nothing")


def test_only_new_or_empty_folders_are_written_to(tmp_path):
    check_new(tmp_path)
    check_new(tmp_path / "new")
    (tmp_path / "x").touch()
    with pytest.raises(UsageError, match=r"`output` .* name another folder$"):
        check_new(tmp_path)
    with pytest.raises(UsageError, match="or continue that run with `resume`"):
        check_new(tmp_path, resumable=True)


def test_a_run_report_has_machine_tables_and_settings(tmp_path):
    run = RunDirectory.of(tmp_path / "run", Tiny())
    run.start()
    run.log_metrics({"step": 1, "loss": 2.0})
    plots = draw_curves(run, {"loss of a step": ["loss"], "other": ["nothing"]}, x="step")
    assert [plot.name for plot in plots] == ["loss.png"]
    page = write_run_report(run, "tiny", {"rule": "none"}, {"T": (["m"], [["1"]])}, plots).read_text()
    assert all(text in page for text in ("tiny: run", "cores", "seed: 3", "rule", "<td>1</td>"))
