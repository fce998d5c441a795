"""Score the detector that ships, or train a new one.

    python benchmarks/detector.py score --faces afw [--scenes posters] [--weights FILE] [--record]
    python benchmarks/detector.py train --faces helen106 [--scenes pictures] --output detector.safetensors

`--faces` is any labelled set that `mmtk landmarks train --data` takes; `--scenes` is a folder of pictures
without faces. Scoring prints recall at an intersection over union of 0.5, against the challenge's mean box
around each face and against the box around its points, and false boxes a picture on the scenes and on
drawn textures. Training takes faces as they are and renders some more.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from bench import Figures, make_parser
from safetensors.torch import load_file

from mmtoolkit.landmarks.data.face import Face, enclosing_box, intersection_over_union, official_box
from mmtoolkit.landmarks.data.images import PICTURES, read_image
from mmtoolkit.landmarks.data.read import Annotation, read_annotations
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.detection.detector import CentreNet, Detector
from mmtoolkit.landmarks.detection.scenes import FaceBank, fill_bank
from mmtoolkit.landmarks.detection.train import fit_detector as train_detector
from mmtoolkit.landmarks.detection.train import save_detector
from mmtoolkit.landmarks.rendering.scenery import draw_background

TEXTURES, RENDERED = 100, 300
SHIPPED = 0.8
"""The threshold that ships."""


def pictures(folder: Path | None) -> list[np.ndarray]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in PICTURES) if folder else []
    return [read_image(file) for file in files]


def recall(detector: Detector, truths: list[Annotation]) -> tuple[float, float, float, float]:
    official, tight, others, spent = [], [], 0, 0.0
    for truth in truths:
        image = truth.face().image
        start = time.process_time()
        boxes = detector(image).boxes
        spent += time.process_time() - start
        labelled = (truth.points, truth.weights)
        for hits, box in ((official, official_box(*labelled)), (tight, enclosing_box(*labelled))):
            hits.append(any(intersection_over_union(one, box) >= 0.5 for one in boxes))
        others += max(0, len(boxes) - 1)
    count = len(truths)
    return float(np.mean(official)), float(np.mean(tight)), others / count, 1e3 * spent / count


def score(arguments: argparse.Namespace) -> None:
    network = None
    if arguments.weights:
        network = CentreNet()
        network.load_state_dict(load_file(arguments.weights))
        network.eval()
    truths, scenes = read_annotations(arguments.faces), pictures(arguments.scenes)
    rng = np.random.default_rng(0)
    textures = [(draw_background(256, rng) * 255).astype(np.uint8) for _ in range(TEXTURES)]
    figures = Figures(arguments.record and network is None)
    print(f"{len(truths)} faces, {len(scenes)} pictures without, {TEXTURES} textures")
    for threshold in (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9):
        detector = Detector(threshold, network=network)
        wide, tight, others, spent = recall(detector, truths)
        false = [np.mean([len(detector(one).boxes) for one in some] or [0]) for some in (scenes, textures)]
        print(
            f"threshold {threshold}: recall {wide:.4f} (box of the points {tight:.4f}), "
            f"false boxes: scenes {false[0]:.3f}, textures {false[1]:.3f}; "
            f"more than one box {others:.3f} a face; {spent:.1f} ms CPU"
        )
        if threshold == SHIPPED:
            figures.add("landmarks.detector.recall", 100 * wide)
            figures.add("landmarks.detector.false.textures", float(false[1]))
            if scenes:
                figures.add("landmarks.detector.false.posters", float(false[0]))


def train(arguments: argparse.Namespace) -> None:
    items = read_annotations(arguments.faces)
    faces: itertools.chain[Face] = itertools.chain(
        (item.face() for item in items), render_faces(RENDERED, 192, seed=77)
    )
    bank: FaceBank = fill_bank(faces, pictures(arguments.scenes))
    start = time.perf_counter()

    def report(step: int, loss: float, network: CentreNet) -> None:
        print(f"step {step}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
        save_detector(network, arguments.output)

    train_detector(bank, arguments.steps, batch_size=24, side=192, learning_rate=4e-3, report=report)


def main() -> None:
    torch.set_num_threads(1)
    parser = make_parser(__doc__)
    parser.add_argument("what", choices=("score", "train"))
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--scenes", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--output", type=Path, default=Path("detector.safetensors"))
    parser.add_argument("--steps", type=int, default=4500)
    arguments = parser.parse_args()
    (score if arguments.what == "score" else train)(arguments)


if __name__ == "__main__":
    main()
