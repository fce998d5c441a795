"""Time the landmarks engine on one thread: network, picture to points, a folder of 1,000, video jitter.

    python benchmarks/landmarks.py [RUN|FILE] [--record]        # a network; default: the weights that ship

Milliseconds are CPU time of one thread, so that other work on the machine does not count; the folder's
are what the clock says, next to the CPU time that all threads took. A folder's ideal is all cores busy with
nothing but the stages (read, detect, locate) of one picture after the other, each timed alone on one thread:
cores / sum of the stages' milliseconds. Its speed by the clock means something on an idle machine only; the
CPU time of the stages over the CPU time that was spent does so on a busy one. Pictures are rendered faces of
450 x 450 pixels. Where no detector ships, the whole picture is the box, and the table says so.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench import Figures, describe_machine, make_parser, timed

from mmtoolkit.core.device import peak_memory
from mmtoolkit.core.errors import CheckpointError
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
Row = tuple[str, str, str | None, float]
"""What is measured, how it is shown, and for results.json its name (None: not kept) and its value."""


def milliseconds(call: Callable[[], object], repeats: int = 60) -> float:
    return 1e3 * timed(call, repeats, warm_up=5)[0]


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


def folder_rows(landmarker: Landmarker, detector: Detector, faces: list[Face]) -> list[Row]:
    """Compare reading a folder with its stages one after the other, on all cores."""
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
    clock, cpu = total / cores / took, total / busy
    return [
        ("stages of a picture, ms", f"{shown} = {total:.2f}", None, total),
        (
            f"folder of {FOLDER}, ms a picture, {cores} cores",
            f"{took:.2f}, CPU {busy:.2f} ({found} faces)",
            None,
            took,
        ),
        ("speed over the ideal, by the clock (goal: 0.8)", f"{clock:.2f}", "folder.clock", clock),
        ("CPU time of the stages over that spent (goal: 0.8)", f"{cpu:.2f}", "folder.cpu", cpu),
        ("peak memory, last 800 against first 200", f"+{grown:.0f} MiB", "folder.memory", grown),
    ]


def jitter_rows(landmarker: Landmarker, face: Face) -> list[Row]:
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
    ratio, delay = float(moves[1] / moves[0]), float(np.mean(lag[30:]))
    return [
        ("jitter on a still face, pixels a frame", f"{moves[0]:.3f}, smoothed {moves[1]:.3f}", None, 0),
        ("smoothed over raw (goal: at most 0.33)", f"{ratio:.2f}", "jitter", ratio),
        (f"delay at {speed:.0f} pixels a frame (goal: under 2)", f"{delay:.2f} frames", "delay", delay),
    ]


def main() -> None:
    torch.set_num_threads(1)
    parser = make_parser(__doc__)
    parser.add_argument(
        "network", nargs="?", type=Path, help="a run or a file (default: the weights that ship)"
    )
    options = parser.parse_args()
    landmarker = load_landmarker(options.network, "cpu")
    faces = list(render_faces(24, SIZE, seed=0))
    name, detector = choose_detector(faces[0].image)
    image = faces[0].image

    def picture_to_points() -> object:
        return find_faces(landmarker, [image], [detector(image)])

    level = "avx512" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "avx2"
    torch_ms, onnx_ms = milliseconds_per_face(landmarker, 200), runtime_milliseconds(landmarker)
    whole = milliseconds(picture_to_points)
    rows: list[Row] = [
        ("network", landmarker.name, None, 0),
        ("torch, ms a face, batch 1 (goal: 5)", f"{torch_ms:.2f}", f"torch.{level}", torch_ms),
        ("torch, ms a face, batch 16", f"{milliseconds_per_face(landmarker, 30, 16):.2f}", None, 0),
        ("ONNX Runtime, ms a face, batch 1 (goal: 2.5)", f"{onnx_ms:.2f}", f"onnx.{level}", onnx_ms),
        (
            f"picture of {SIZE} x {SIZE} to points, two passes, ms (goal: 25)",
            f"{whole:.2f}",
            f"picture.{level}",
            whole,
        ),
        ("detector", name, None, 0),
        *folder_rows(landmarker, detector, faces),
        *jitter_rows(landmarker, faces[1]),
    ]
    print(describe_machine("one thread", f"load {os.getloadavg()[0]:.1f}"))
    figures = Figures(options.record and options.network is None)
    for label, text, figure, value in rows:
        print(f"{label:<58} {text}")
        if figure:
            figures.add(f"landmarks.{figure}", value)


if __name__ == "__main__":
    main()
