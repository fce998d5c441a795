import pytest
import torch

from mmtoolkit.core.checkpoint import Checkpoint, load_checkpoint, matching_weights, save_checkpoint
from mmtoolkit.core.errors import CheckpointError
from mmtoolkit.core.run import RunDirectory


def checkpoint(value: float) -> Checkpoint:
    return Checkpoint({"w": torch.full((2, 3), value)}, {"step": 1, "rng": torch.arange(4)}, {"data": "x"})


def test_last_and_best_survive_pruning(tmp_path):
    for step in range(1, 5):
        save_checkpoint(tmp_path / "checkpoints", step, checkpoint(step), best=step == 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "000002",
        "000004",
        "best",
        "last",
    ]
    loaded = load_checkpoint(RunDirectory(tmp_path).checkpoint())
    assert loaded.model["w"].eq(4).all()
    assert loaded.meta == {"step": 4, "data": "x"}
    assert torch.equal(loaded.state["rng"], torch.arange(4))
    assert load_checkpoint(RunDirectory(tmp_path).checkpoint("best")).model["w"].eq(2).all()


def test_a_kill_while_writing_leaves_the_last_one_whole(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoints", 1, checkpoint(1))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "checkpoints", 2, checkpoint(2))
    monkeypatch.undo()
    assert load_checkpoint(RunDirectory(tmp_path).checkpoint()).model["w"].eq(1).all()
    save_checkpoint(tmp_path / "checkpoints", 2, checkpoint(2))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["000002", "last"]


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "meta.json"])
def test_damage_is_named(tmp_path, file):
    path = save_checkpoint(tmp_path / "checkpoints", 1, checkpoint(1))
    (path / file).write_bytes(b"\x00broken")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        RunDirectory(tmp_path).checkpoint()


def test_weights_of_another_model_are_refused(tmp_path):
    given = {"w": torch.zeros(2)}
    with pytest.raises(CheckpointError, match="'v'"):
        matching_weights(given, {"v": torch.zeros(2)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"shape \(2,\)"):
        matching_weights(given, {"w": torch.zeros(3)}, tmp_path)
