import pytest
import torch

from mmtoolkit.core.config import config_layer, preset_names, resolve, set_layers
from mmtoolkit.core.errors import ConfigError
from mmtoolkit.landmarks.config import LandmarkSettings
from mmtoolkit.landmarks.models.networks import count_operations, fold_norms, heatmap_peaks, make_model


def model_of(preset, *changes):
    settings = resolve(LandmarkSettings, [config_layer("landmarks", preset), *set_layers(changes)]).settings
    return make_model(settings.model), settings.model


@pytest.mark.parametrize("preset", preset_names("landmarks"))
def test_every_preset_finds_106_points(preset):
    model, settings = model_of(preset)
    with torch.inference_mode():
        found = model.eval()(torch.rand(2, 3, settings.size, settings.size) * 255)
    assert found.points.shape == (2, 106, 2)
    assert found.scores.shape == (2, 106)
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


@pytest.mark.parametrize(("preset", "flops", "size"), [("compact", 100e6, 2e6), ("accurate", 1e9, 20e6)])
def test_budgets_of_the_challenges(preset, flops, size):
    model, settings = model_of(preset)
    assert 2 * count_operations(model, settings.size) <= flops
    assert 2 * sum(p.numel() for p in model.parameters()) <= size


def test_operations_by_hand():
    layer = torch.nn.Conv2d(3, 8, 3, 2, 1)
    assert count_operations(layer, 16) == 3 * 3 * 3 * 8 * 8 * 8


@pytest.mark.parametrize(
    "changes",
    [(), ("model.head=integral",), ("model.stages=[{block: mobile, channels: 8}, {channels: 16}]",)],
)
def test_folding_norms_changes_nothing(changes):
    model, _ = model_of("tiny", *changes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    images = torch.rand(2, 3, 32, 32) * 255
    with torch.inference_mode():
        before = model.eval()(images).points
        after = fold_norms(model)(images).points
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_peaks_are_found_between_pixels():
    from mmtoolkit.landmarks.models.losses import gaussian_heatmaps

    positions = torch.tensor([[[10.3, 20.6], [31.0, 5.5]]])
    points, scores = heatmap_peaks(gaussian_heatmaps(positions, 64, 1.0))
    torch.testing.assert_close(points * 64 - 0.5, positions, atol=0.05, rtol=0)
    assert scores.min() > 0.7


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="multiple of 64 for FAN"):
        model_of("fan", "model.size=112")
    with pytest.raises(ConfigError, match="must be a multiple of 32"):
        model_of(
            "compact",
            "model.size=112",
            "model.stages=[{channels: 8}, {channels: 8}, {channels: 8}, {channels: 8}]",
        )
