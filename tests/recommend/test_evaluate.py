"""What `eval` prints and returns."""

import json

import pytest


@pytest.mark.usefixtures("no_report")
def test_eval_prints_everything(mmtk, data_folder, tmp_path):
    run = tmp_path / "run"
    assert (
        mmtk("recommend", "train", "-c", "popularity", "--data", data_folder, "-o", run, "-q").exit_code == 0
    )
    printed = json.loads(mmtk("recommend", "eval", "--checkpoint", run, "--json", "-q").stdout)
    assert {"recall@20", "coverage@20", "gini@5", "similarity_text@10"} <= set(printed["metrics"])
    assert all("recall@20" in group for group in printed["groups"]["users"].values())
    text = mmtk("recommend", "eval", "--checkpoint", run, "-q").stdout
    for word in ("coverage", "novelty", "Users by activity", "Items by popularity", "training users"):
        assert word in text
