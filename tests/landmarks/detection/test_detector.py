from importlib.resources import as_file, files

import numpy as np
import pytest
import torch

from mmtoolkit.landmarks.data.face import enclosing_box, intersection_over_union, official_box
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.detection.detector import (
    STRIDE,
    WEIGHTS,
    CentreNet,
    Detector,
    decode,
    detector_box,
    suppress,
    widen,
)
from mmtoolkit.landmarks.detection.scenes import draw_scene, fill_bank
from mmtoolkit.landmarks.detection.train import detector_loss, fit_detector, make_targets, save_detector
from mmtoolkit.landmarks.rendering.scenery import draw_background


@pytest.fixture(scope="module")
def bank():
    rng = np.random.default_rng(0)
    scenes = [(draw_background(64, rng) * 255).astype(np.uint8) for _ in range(4)]
    return fill_bank(render_faces(8, size=96, seed=2), scenes)


def perfect_output(boxes, side):
    targets, _ = make_targets(boxes, np.zeros((side, side), bool))
    heat = 12 * targets[:1] - 6
    return torch.from_numpy(np.concatenate([heat, targets[1:]])[None].astype(np.float32))


def test_targets_decode_to_the_boxes_they_were_made_from():
    boxes = np.array([[10, 20, 60, 90], [100, 100, 120, 125], [140, 8, 250, 130.0]], np.float32)
    found, scores = decode(perfect_output(boxes, 256), 0.5)
    assert (scores > 0.99).all()
    found = found[suppress(found, scores, 0.4)]
    order = np.argsort(found[:, 0])
    assert np.allclose(found[order], boxes, atol=1e-2)


def test_boxes_lie_midway_and_widen_to_the_official_ones():
    points = next(render_faces(1, size=96)).points
    box, official, true = detector_box(points), official_box(points), enclosing_box(points)
    assert np.allclose(widen(box[None])[0], official, atol=1e-3)
    assert intersection_over_union(box, official) > 0.7
    assert intersection_over_union(box, true) > 0.7


def test_unlabelled_points_do_not_widen_the_box():
    face = next(render_faces(1, size=96))
    points, weights = face.points.copy(), np.ones(106, np.float32)
    points[50], weights[50] = 0, 0
    assert np.allclose(detector_box(points, weights), detector_box(face.points))


def test_intersection_over_union_by_hand():
    one, other = np.float32([0, 0, 2, 2]), np.float32([1, 1, 3, 3])
    assert intersection_over_union(one, other) == pytest.approx(1 / 7)
    assert intersection_over_union(one, other + 5) == 0
    assert intersection_over_union(one, one) == 1


def test_only_the_surest_of_overlapping_boxes_stays():
    boxes = np.float32([[0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]])
    assert suppress(boxes, np.float32([0.6, 0.9, 0.5]), 0.4) == [1, 2]
    assert suppress(boxes[:0], np.float32([]), 0.4) == []


def test_scenes_hold_their_faces_where_the_boxes_say(bank):
    rng = np.random.default_rng(1)
    counts = []
    for _ in range(30):
        picture, boxes, unknown = draw_scene(bank, 128, rng)
        counts.append(len(boxes))
        assert picture.shape == (128, 128, 3)
        assert picture.dtype == np.uint8
        for box in boxes:
            x, y = np.clip((box[:2] + box[2:]) / 2, 0, 127).astype(int)
            assert unknown[y, x]
            assert (box[2:] > box[:2]).all()
    assert 0 in counts
    assert max(counts) >= 2


def test_the_loss_is_least_for_the_perfect_answer():
    boxes = np.array([[10, 20, 60, 90]], np.float32)
    targets, weights = (torch.from_numpy(a)[None] for a in make_targets(boxes, np.zeros((96, 96), bool)))
    perfect = perfect_output(boxes, 96)
    good = detector_loss(perfect, targets, weights)
    moved = perfect.clone()
    moved[:, 3] += 0.2
    assert good < detector_loss(moved, targets, weights)
    silent = perfect.clone()
    silent[:, 0] = -6
    assert good < detector_loss(silent, targets, weights)


def test_training_saving_and_loading(bank, tmp_path):
    """The saved weights give the same output."""
    losses = []
    network = fit_detector(
        bank,
        4,
        batch_size=4,
        side=64,
        learning_rate=5e-3,
        report=lambda step, loss, _: losses.append((step, loss)),
    )
    assert losses[-1][0] == 4
    save_detector(network, tmp_path / "d.safetensors")
    from safetensors.torch import load_file

    copy = CentreNet()
    copy.load_state_dict(load_file(tmp_path / "d.safetensors"))
    copy.eval()
    pixels = (
        torch.from_numpy(draw_scene(bank, 64, np.random.default_rng(0))[0]).permute(2, 0, 1)[None].float()
    )
    with torch.no_grad():
        assert torch.allclose(copy(pixels), network(pixels), rtol=0.02, atol=0.1)
        assert copy(pixels).shape == (1, 5, 64 // STRIDE, 64 // STRIDE)


def test_folding_the_shipped_norms_changes_nothing(bank):
    from safetensors.torch import load_file

    with as_file(files("mmtoolkit.landmarks") / "weights" / WEIGHTS) as path:
        weights = load_file(path)
    plain = CentreNet()
    plain.load_state_dict(weights)
    pixels = torch.from_numpy(draw_scene(bank, 64, np.random.default_rng(0))[0]).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted, found = plain.eval()(pixels.float()), Detector().network(pixels.float())
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in Detector().network.modules())


def test_the_shipped_weights_are_small():
    assert len((files("mmtoolkit.landmarks") / "weights" / WEIGHTS).read_bytes()) <= 400_000


def test_the_shipped_detector_finds_the_astronaut_and_nothing_in_scenery():
    from skimage import data

    detector = Detector()
    found = detector(data.astronaut())
    assert len(found.boxes) == 1
    assert intersection_over_union(found.boxes[0], np.float32([172, 55, 272, 190])) > 0.5
    rng = np.random.default_rng(0)
    invented = [len(detector((draw_background(160, rng) * 255).astype(np.uint8)).boxes) for _ in range(20)]
    assert np.mean(invented) <= 0.1


@pytest.mark.parametrize("shape", [(1, 1), (40, 700), (333, 90)])
def test_pictures_of_any_shape_give_arrays(shape):
    found = Detector()(np.zeros((*shape, 3), np.uint8))
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)
