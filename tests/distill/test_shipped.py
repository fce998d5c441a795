"""The teacher and the student that ship."""

from importlib.resources import files

import numpy as np
import torch
from PIL import Image

from mmtoolkit.distill.data.synthetic import BACKGROUNDS, COLOURS, PLACES
from mmtoolkit.distill.models.pixel import load_pixel
from mmtoolkit.distill.sample import SampleSettings, sample
from mmtoolkit.distill.sampling.generate import teacher_samples, to_bytes

CAPTIONS = [
    f"a large {colour} {shape} {position} on {background}"
    for index, (colour, background) in enumerate((c, b) for c in COLOURS for b in ("white", "black"))
    for shape in [("circle", "square", "star", "triangle")[index % 4]]
    for position in [list(PLACES)[(2 * index) % 9]]
]


def share_right(pictures):
    """Return the share of pictures with the background, the colour and the position that CAPTIONS say."""
    right = []
    for picture, caption in zip(np.asarray(pictures, int), CAPTIONS, strict=True):
        words = caption.split()
        position = next(name for name in PLACES if f" {name} on " in caption)
        background = np.array(BACKGROUNDS[words[-1]])
        names = [*COLOURS, words[-1]]
        palette = np.array([*COLOURS.values(), background])
        near = np.abs(picture[:, :, None] - palette).sum(3).argmin(2)
        shape = near == names.index(words[2])
        if shape.sum() < 20 or (near == len(names) - 1).mean() < 0.5:
            right.append(False)
            continue
        row, column = (np.mean(axis) for axis in np.nonzero(shape))
        want = 16 + (np.array(PLACES[position]) - 1) * 6.5
        right.append(bool(np.abs(np.array([row, column]) + 0.5 - want).max() < 4))
    return np.mean(right)


def test_the_student_draws_what_captions_say_in_four_steps():
    drawn = sample(texts=CAPTIONS, settings=SampleSettings(count=len(CAPTIONS)))
    assert share_right([np.asarray(image) for image in drawn.images]) >= 0.9


def test_the_check_fails_on_other_pictures():
    blank = [np.full((32, 32, 3), 245)] * len(CAPTIONS)
    assert share_right(blank) == 0


def test_the_teacher_draws_what_captions_say():
    denoiser = load_pixel("shapes", torch.device("cpu"))
    condition = {"tokens": denoiser.spec.tokens(CAPTIONS)}
    noise = torch.randn(len(CAPTIONS), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pictures = teacher_samples(denoiser, condition, noise, steps=25, guidance=2.0)
    assert share_right(to_bytes(pictures)) >= 0.9


def test_both_fit_into_eight_megabytes():
    folder = files("mmtoolkit.distill") / "weights"
    sizes = [len((folder / f"{name}.safetensors").read_bytes()) for name in ("teacher", "student")]
    assert sum(sizes) <= 8_000_000


def test_a_bare_sample_draws_a_grid(mmtk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = mmtk("distill", "sample", "-q")
    assert result.exit_code == 0, result.output
    grid = next(tmp_path.rglob("grid.png"))
    with Image.open(grid) as image:
        assert image.width > 300
    assert len(list(grid.parent.glob("00*.png"))) == 16
