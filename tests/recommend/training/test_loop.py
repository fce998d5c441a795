"""The training loop: its triples, and what a signal does."""

import os
import signal

import pytest
import torch

from mmtoolkit.core.checkpoint import load_checkpoint
from mmtoolkit.core.errors import StoppedError
from mmtoolkit.recommend.train import train
from mmtoolkit.recommend.training import loop
from mmtoolkit.recommend.training.loop import sample_triples


def test_negatives_are_never_positives(tiny_data):
    triples = sample_triples(tiny_data.train)
    dense = tiny_data.train.toarray()
    assert len(triples) == tiny_data.train.nnz
    assert dense[triples[:, 0], triples[:, 1]].all()
    assert not dense[triples[:, 0], triples[:, 2]].any()
    assert len(set(triples[:, 2])) == 60


@pytest.mark.usefixtures("no_report")
def test_a_signal_ends_the_run_after_a_checkpoint_and_it_resumes_to_the_same_bits(
    tiny_data, tiny_settings, new_run, monkeypatch
):
    settings = tiny_settings("train.epochs=4", "train.checkpoint_every=100")
    whole, stopped = new_run(settings, "whole"), new_run(settings, "stopped")
    expected = train(settings, whole, tiny_data)
    plain = loop.train_epoch

    def interrupted(training):
        if training.loop.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(training)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", interrupted)
        with pytest.raises(StoppedError, match="SIGTERM after epoch 2") as error:
            train(settings, stopped, tiny_data)
    assert error.value.exit_code == 143
    assert stopped.checkpoint().name == "000002"
    assert train(settings, stopped, tiny_data, resume=True) == expected
    a, b = (load_checkpoint(run.checkpoint()).model for run in (stopped, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)
