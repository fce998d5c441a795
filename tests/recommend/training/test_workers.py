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
    # what torchrun does, without its slow start: a store, and the environment of each rank
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "mmtoolkit", *arguments, "-o", tmp_path / "two"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment | {"OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    (first, error), (second, other_error) = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], error + other_error
    assert second == ""
    together = json.loads(first)
    assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-4)
    records = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in records] == [1, 2]
