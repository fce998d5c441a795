"""Time the landmarks engine on one thread: network, picture to points, a folder of 1,000, video jitter.

    python benchmarks/landmarks.py [RUN|FILE]        # a network; default: the weights that ship

Milliseconds are CPU time of one thread, so that other work on the machine does not count; the folder's
are what the clock says, next to the CPU time that all threads took. A folder's ideal is all cores busy with
nothing but the stages (read, detect, locate) of one picture after the other, each timed alone on one thread:
cores / sum of the stages' milliseconds. Its speed by the clock means something on an idle machine only; the
CPU time of the stages over the CPU time that was spent does so on a busy one. Pictures are rendered faces of
450 x 450 pixels. Where no detector ships, the whole picture is the box, and the table says so.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmtoolkit.core.device import peak_memory
from mmtoolkit.core.errors import CheckpointError
from mmtoolkit.core.run import environment
from mmtoolkit.landmarks.data.face import Face
from mmtoolkit.landmarks.data.images import encode_image, read_image
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.detection.detect import Detector, make_detector
from mmtoolkit.landmarks.export import comparison_crops, onnx_session
from mmtoolkit.landmarks.export import export_network as export
from mmtoolkit.landmarks.load import Landmarker
from mmtoolkit.landmarks.load import load as load_landmarker
from mmtoolkit.landmarks.prediction.pictures import core_count, find_faces, list_pictures, predict_pictures
from mmtoolkit.landmarks.prediction.smooth import OneEuroFilter
from mmtoolkit.landmarks.profile import milliseconds_per_face

SIZE, FOLDER = 450, 1000


def milliseconds(call: Callable[[], object], repeats: int = 60) -> float:
    seconds = []
    for _ in range(repeats + 5):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return 1e3 * float(np.median(seconds[5:]))


def runtime_milliseconds(landmarker: Landmarker) -> float:
    crops = comparison_crops(landmarker, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        export(landmarker, path, "onnx", crops)
        session = onnx_session(path)
    return milliseconds(lambda: session(crops[:1]), 200)


def choose_detector(image: np.ndarray) -> tuple[str, Detector]:
    detector = make_detector("small")
    try:
        detector(image)
    except CheckpointError:
        return "whole picture, no detector ships", make_detector("whole")
    return "small", detector


def folder_rows(landmarker: Landmarker, detector: Detector, faces: list[Face]) -> list[tuple[str, str]]:
    """Compare reading a folder with its stages one after the other, on the cores there are."""
    cores = core_count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(FOLDER):
            data = encode_image(faces[number % len(faces)].image)
            (folder / f"{number:04d}.jpg").write_bytes(data)
        pictures = list_pictures(folder)
        one = pictures[0].path
        stages = {
            "read": milliseconds(lambda: read_image(one)),
            "detect": milliseconds(lambda: detector(faces[0].image)),
        }
        batch = [face.image for face in faces[:4]]
        boxes = [np.append(face.box, 1).astype(np.float32)[None] for face in faces[:4]]
        stages["locate"] = milliseconds(lambda: find_faces(landmarker, batch, boxes), 20) / len(batch)
        start, spent, found, memory = time.perf_counter(), time.process_time(), 0, 0
        for number, prediction in enumerate(predict_pictures(landmarker, pictures, detector)):
            found += len(prediction.faces)
            if number == FOLDER // 5:
                memory = peak_memory(landmarker.device)
        took = 1e3 * (time.perf_counter() - start) / FOLDER
        busy = 1e3 * (time.process_time() - spent) / FOLDER
        grown = (peak_memory(landmarker.device) - memory) / 2**20
    total = sum(stages.values())
    shown = " + ".join(f"{stage} {value:.2f}" for stage, value in stages.items())
    return [
        ("stages of a picture, ms", f"{shown} = {total:.2f}"),
        (f"folder of {FOLDER}, ms a picture, {cores} cores", f"{took:.2f}, CPU {busy:.2f} ({found} faces)"),
        ("speed over the ideal, by the clock (goal: 0.8)", f"{total / cores / took:.2f}"),
        ("CPU time of the stages over that spent (goal: 0.8)", f"{total / busy:.2f}"),
        ("peak memory, last 800 against first 200", f"+{grown:.0f} MiB"),
    ]


def jitter_rows(landmarker: Landmarker, face: Face) -> list[tuple[str, str]]:
    """Follow a still face through pixel noise, and a moving one, with and without the filter."""
    rng = np.random.default_rng(0)
    box, smooth, raw, steady = face.box[None], OneEuroFilter(30), [], []
    for _ in range(90):
        noisy = face.image + rng.normal(0, 8, face.image.shape)
        raw.append(landmarker(np.clip(noisy, 0, 255).astype(np.uint8), box)[0][0])
        steady.append(smooth(raw[-1]))
    moves = [np.linalg.norm(np.diff(track[20:], axis=0), axis=-1).mean() for track in (raw, steady)]
    speed, follow = 3.0, OneEuroFilter(30)
    moving = [raw[n] + np.float32([speed * n, 0]) for n in range(90)]
    lag = [(point - follow(point))[:, 0].mean() / speed for point in moving]
    return [
        ("jitter on a still face, pixels a frame", f"{moves[0]:.3f}, smoothed {moves[1]:.3f}"),
        ("smoothed over raw (goal: at most 0.33)", f"{moves[1] / moves[0]:.2f}"),
        (f"delay at {speed:.0f} pixels a frame (goal: under 2)", f"{np.mean(lag[30:]):.2f} frames"),
    ]


def main() -> None:
    torch.set_num_threads(1)
    landmarker = load_landmarker(Path(sys.argv[1]) if len(sys.argv) > 1 else None, "cpu")
    faces = list(render_faces(24, SIZE, seed=0))
    name, detector = choose_detector(faces[0].image)
    image = faces[0].image

    def picture_to_points() -> object:
        return find_faces(landmarker, [image], [detector(image)])

    rows = [
        ("network", landmarker.name),
        ("torch, ms a face, batch 1 (goal: 5)", f"{milliseconds_per_face(landmarker, 200):.2f}"),
        ("torch, ms a face, batch 16", f"{milliseconds_per_face(landmarker, 30, 16):.2f}"),
        ("ONNX Runtime, ms a face, batch 1 (goal: 2.5)", f"{runtime_milliseconds(landmarker):.2f}"),
        (
            f"picture of {SIZE} x {SIZE} to points, two passes, ms (goal: 25)",
            f"{milliseconds(picture_to_points):.2f}",
        ),
        ("detector", name),
        *folder_rows(landmarker, detector, faces),
        *jitter_rows(landmarker, faces[1]),
    ]
    print(f"{environment()['cpu']}, one thread, load {os.getloadavg()[0]:.1f}")
    for label, value in rows:
        print(f"{label:<58} {value}")


if __name__ == "__main__":
    main()
