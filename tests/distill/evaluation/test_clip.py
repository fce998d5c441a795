"""CLIP scores."""

import warnings

import torch

from mmtoolkit.core.config import set_layers
from mmtoolkit.distill.evaluate import evaluate


def test_clip_scores_a_text_model(trained, tiny_clip, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        features = torch.jit.trace(torch.nn.AdaptiveAvgPool2d(2), torch.zeros(2, 3, 16, 16))
        features.save(str(tmp_path / "four.pt"))
    settings = ["samples=8", "steps=[1]", "eta=[0]", "guidance=[1]", f"features={tmp_path / 'four.pt'}"]
    changes = [f"evaluate.{one}" for one in (*settings, f"clip={tiny_clip}")]
    found = evaluate(trained("sd15"), set_layers(changes))
    scores = [found.cells[0].metrics["clip_score"], found.teacher[4.5]["clip_score"]]
    assert all(0 <= score <= 1 for score in scores)
