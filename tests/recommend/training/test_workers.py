import json
import os
import subprocess
import sys

import pytest
import torch

from mmtoolkit.recommend.training.workers import ALONE, Workers


def test_one_process_changes_nothing():
    rows, loss = torch.arange(5), torch.tensor(0.3)
    assert ALONE.share(rows) is rows
    assert ALONE.part(loss, 5) is loss
    assert ALONE.total(0.3) == 0.3
    assert ALONE.agree("x") == "x"
    assert ALONE.is_main


@pytest.mark.parametrize("batch", [1, 2, 7, 9])
def test_parts_of_a_batch_add_up_to_its_mean(batch):
    values = torch.rand(batch)
    workers = [Workers(rank, 3) for rank in range(3)]
    total = sum(worker.part(worker.share(values).mean(), batch) for worker in workers)
    assert float(total) == pytest.approx(float(values.mean()))
    if batch >= 3:
        assert torch.equal(torch.cat([worker.share(values) for worker in workers]), values)


def test_two_processes_give_the_metrics_of_one(mmtk, data_folder, tmp_path):
    arguments = ["recommend", "train", "-c", "igdmrec", "--data", str(data_folder), "--json", "-q"]
    for change in (
        "data.modalities={}",
        "train.epochs=2",
        "diffusion.hidden=16",
        "train.batch_size=50",
        "diffusion.batch_size=32",
        "diffusion.passes=1",
        "train.learning_rate=0.01",
        "device=cpu",
    ):
        arguments += ["-s", change]
    alone = json.loads(mmtk(*arguments, "-o", tmp_path / "one").stdout)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmtoolkit"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *arguments, "-o", tmp_path / "two"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-4)
    records = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in records] == [1, 2]
