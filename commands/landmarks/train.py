"""`mmtk landmarks`: train, score, predict and export 106 facial points."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtoolkit.core.errors import UsageError

from .. import options
from ..options import (
    Config,
    Debug,
    Device,
    DryRun,
    Json,
    Output,
    Quiet,
    Resume,
    Seed,
    Set,
    Verbose,
)
from ..output import print_dry_run, print_facts, print_json, print_table, start_output
from .options import (
    DATA,
    Data,
    Download,
    Finder,
    Flip,
    NewFile,
    Weights,
    open_detector,
    open_landmarker,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmtoolkit.landmarks.config import LandmarkSettings
    from mmtoolkit.landmarks.prediction.pictures import Prediction

    from ..plan import Plan

app = typer.Typer(no_args_is_help=True, help="Facial landmarks with the 106 points of the JD challenge.")


NewFolder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="New or empty folder to write to.",
        rich_help_panel=options.OUTPUT,
    ),
]


class Kind(StrEnum):
    """What predictions are written as."""

    json = "json"
    csv = "csv"
    txt = "txt"
    pts = "pts"
    overlay = "overlay"
    video = "video"
    crops = "crops"


class ExportFormat(StrEnum):
    """Formats of networks."""

    onnx = "onnx"
    torchscript = "torchscript"
    safetensors = "safetensors"


@app.command("train", epilog="Example: mmtk landmarks train -c compact --data helen -o runs/compact")
def train(
    config: Config = None,
    assignments: Set = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="SET", help=f"Photographs, may be repeated: {DATA}", rich_help_panel=options.CONFIGURATION
        ),
    ] = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train on photographs and rendered faces; without --data on rendered ones alone."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.core.config import Layer
    from mmtoolkit.landmarks.config import RESUMABLE, LandmarkSettings

    from ..plan import command_layers, plan_training

    changes = command_layers(assignments, {"seed": seed, "device": device})
    if data:
        changes.append(Layer("--data", {"data": {"path": [str(path) for path in data]}}))
    plan = plan_training("landmarks", LandmarkSettings, config, changes, resume, output, RESUMABLE)
    if dry_run:
        from mmtoolkit.landmarks.train import describe_work

        facts = describe_work(plan.resolved.settings)
        print_dry_run("landmarks train", plan.run.path, facts, as_json=as_json)
    else:
        _train(plan, as_json=as_json)


def _train(plan: "Plan[LandmarkSettings]", *, as_json: bool) -> None:
    from mmtoolkit.landmarks.train import train as train_engine

    result = train_engine(plan.resolved.settings, plan.run, resume=plan.resume)
    path = plan.run.path
    if as_json:
        files = [str(path / name) for name in ("results.json", "report.html", "checkpoints/best")]
        facts = {"epochs": result.epochs, "best_epoch": result.best_epoch}
        print_json("landmarks train", run=str(path), metrics=result.metrics, **facts, files=files)
        return
    shown = {name: f"{value:.4f}" for name, value in result.metrics.items()}
    epochs = f"{result.epochs}, best {result.best_epoch}"
    print_facts({"epochs": epochs, **shown, "report": str(path / "report.html")})


@app.command("eval", epilog="Example: mmtk landmarks eval --data jd106_test --checkpoint runs/compact")
def evaluate(
    predictions: Annotated[
        Path | None,
        typer.Argument(metavar="[PREDICTIONS]", help="Folder or zip of <picture>.txt, instead of a network."),
    ] = None,
    data: Data = None,
    checkpoint: Weights = None,
    points_79: Annotated[
        bool, typer.Option("--79", help="Score the third challenge's 79 points.", rich_help_panel=options.RUN)
    ] = False,
    alpha: Annotated[
        float, typer.Option(help="NME of a failure.", min=1e-6, rich_help_panel=options.RUN)
    ] = 0.08,
    passes: Annotated[
        int, typer.Option(help="2: look again through the first points' box.", min=1, max=3)
    ] = 1,
    flip: Flip = False,
    device: Device = None,
    output: NewFolder = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Score a network or ready predictions by the challenge's protocol."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.landmarks.report import metric_table, part_table
    from mmtoolkit.landmarks.tasks import RENDERED, score

    if predictions and (checkpoint or flip or device or passes != 1):
        raise UsageError("give PREDICTIONS or a network (--checkpoint, --flip, --device, --passes), not both")
    source = predictions or open_landmarker(checkpoint, device, flip=flip)
    found, files = score(source, data, output=output, alpha=alpha, subset_79=points_79, passes=passes)
    written = [str(file) for file in files]
    if as_json:
        groups = {"groups": found.groups, "parts": found.parts, "offset": found.offset}
        print_json(
            "landmarks eval",
            data=str(data or RENDERED),
            metrics=found.metrics,
            **groups,
            files=written,
        )
        return
    print_table(f"{data or RENDERED}: NME over sqrt(w h) of the true box", *metric_table(found))
    print_table("By part", *part_table(found))
    right, down = (100 * value for value in found.offset)
    typer.echo(f"Mean offset of the predictions: {right:+.2f} % to the right, {down:+.2f} % down")
    for file in written:
        typer.echo(file)


@app.command("predict", epilog="Example: mmtk landmarks predict photo.jpg -o points")
def predict(
    source: Annotated[
        str, typer.Argument(metavar="PICTURE|FOLDER|VIDEO|CAMERA", help="A camera is a number.")
    ],
    output: NewFolder = None,
    kinds: Annotated[
        list[Kind] | None,
        typer.Option("--format", help="What to write, may be repeated (default: json, overlay)."),
    ] = None,
    detector: Finder = None,
    download: Download = False,
    box: Annotated[
        str | None, typer.Option(metavar="L,T,R,B", help="Box of the one face of a picture.")
    ] = None,
    checkpoint: Weights = None,
    passes: Annotated[int, typer.Option(help="Looks at each face of a picture.", min=1, max=3)] = 2,
    smooth: Annotated[bool, typer.Option(help="Steady the points of a video.")] = True,
    frames: Annotated[int, typer.Option(help="Stop a video after so many frames; 0: at its end.", min=0)] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Threads for pictures (default: the cores there are).", min=1)
    ] = None,
    flip: Flip = False,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Find faces and locate their points; with --output, write them."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.landmarks.tasks import parse_box, predict_source

    if box is not None and (detector or download):
        raise UsageError("give the --box or a --detector that finds it, not both")
    given = None if box is None else parse_box(box)
    landmarker = open_landmarker(checkpoint, device, flip=flip)
    finder = None if box else open_detector(detector, landmarker, download=download)
    found = predict_source(
        landmarker, source, finder, box=given, passes=passes, smooth=smooth, frames=frames, workers=workers
    )
    _write_predictions(found, output, [kind.value for kind in kinds or []], as_json=as_json)


def _write_predictions(
    found: "Iterator[Prediction]", output: Path | None, kinds: list[str], *, as_json: bool
) -> None:
    """Write predictions to a folder as they come, or show them."""
    from mmtoolkit.landmarks.prediction.outputs import OutputFolder, face_record

    if output is None:
        if kinds:
            raise UsageError("--format needs --output FOLDER")
        if as_json:
            records = [{"name": p.name, "faces": [face_record(face) for face in p.faces]} for p in found]
            print_json("landmarks predict", pictures=records)
        else:
            for prediction in found:
                _show_faces(prediction)
        return
    faces = pictures = 0
    with OutputFolder(output, kinds or ["json", "overlay"]) as folder:
        for prediction in found:
            folder.write(prediction)
            pictures, faces = pictures + 1, faces + len(prediction.faces)
    if as_json:
        files = [str(file) for file in folder.files]
        print_json("landmarks predict", pictures=pictures, faces=faces, files=files)
    else:
        typer.echo(f"{output}: {faces} faces in {pictures} pictures")


def _show_faces(prediction: "Prediction") -> None:
    if not prediction.faces:
        typer.echo(f"{prediction.name}: no face")
    for number, face in enumerate(prediction.faces):
        left, top, right, bottom = (round(v) for v in face.box.tolist())
        yaw, pitch, roll = (round(angle) for angle in face.pose)
        typer.echo(
            f"{prediction.name}: face {number if face.track < 0 else face.track}  "
            f"box {left},{top},{right},{bottom}  score {face.scores.mean():.2f}  "
            f"yaw {yaw}  pitch {pitch}  roll {roll}"
        )


@app.command("compare", epilog="Example: mmtk landmarks compare runs/a predictions.zip --data jd106_test")
def compare(
    first: Annotated[
        Path, typer.Argument(metavar="RUN|PREDICTIONS", help="Run, weights file, folder or zip.")
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN|PREDICTIONS", help="What to compare it with.")],
    data: Data = None,
    alpha: Annotated[float, typer.Option(help="NME of a failure.", min=1e-6)] = 0.08,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Tell whether two methods differ, by a paired bootstrap over faces."""
    start_output(quiet=quiet, verbose=verbose)
    from dataclasses import asdict

    from mmtoolkit.landmarks.tasks import RENDERED, compare_sources

    sources = [open_landmarker(p, device) if _is_network(p) else p for p in (first, second)]
    found = compare_sources(sources[0], sources[1], data, alpha=alpha, seed=seed)
    if as_json:
        print_json(
            "landmarks compare", data=str(data or RENDERED), comparisons=[asdict(one) for one in found]
        )
        return
    columns = ["metric", "first", "second", "second - first", "95 % interval", "p"]
    rows = [
        [c.metric, f"{c.first:.4f}", f"{c.second:.4f}", f"{c.second - c.first:+.4f}",
         f"{c.low:+.4f} to {c.high:+.4f}", f"{c.p:.4f}"]
        for c in found
    ]  # fmt: skip
    print_table(f"{data or RENDERED}, paired bootstrap over faces", columns, rows)


def _is_network(path: Path) -> bool:
    names = ("config.yaml", "model.safetensors")
    return path.suffix == ".safetensors" or any((path / name).is_file() for name in names)


@app.command("export", epilog="Example: mmtk landmarks export --format onnx -o compact.onnx")
def export(
    output: NewFile,
    kind: Annotated[ExportFormat, typer.Option("--format", help="Format to write.")] = ExportFormat.onnx,
    checkpoint: Weights = None,
    data: Annotated[
        Path | None, typer.Option(metavar="SET", help="Faces to compare on (default: rendered ones).")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Export a network and compare it with torch on real crops before saying done."""
    start_output(quiet=quiet, verbose=verbose)
    from mmtoolkit.landmarks.export import comparison_crops
    from mmtoolkit.landmarks.export import export as export_engine

    landmarker = open_landmarker(checkpoint, options.DeviceChoice.cpu)
    done = export_engine(landmarker, output, kind.value, comparison_crops(landmarker, data))
    if as_json:
        facts = {"bytes": done.size, "difference_pixels": done.difference}
        print_json("landmarks export", format=kind.value, **facts, files=[str(output)])
    else:
        typer.echo(f"{output}: {done.size:,} bytes, at most {done.difference:.2g} pixels from torch's points")


@app.command("profile", epilog="Example: mmtk landmarks profile --checkpoint runs/compact")
def profile(
    config: Config = None,
    checkpoint: Weights = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell parameters, operations, bytes, milliseconds a face and which challenge's limits hold."""
    from dataclasses import asdict

    from mmtoolkit.landmarks.export import profile as profile_engine
    from mmtoolkit.landmarks.load import untrained

    if config and checkpoint:
        raise UsageError("give --config (an untrained network) or --checkpoint, not both")
    landmarker = untrained(config) if config else open_landmarker(checkpoint, options.DeviceChoice.cpu)
    found = profile_engine(landmarker)
    if as_json:
        print_json("landmarks profile", **asdict(found))
        return
    facts = {
        "network": landmarker.name,
        "parameters": f"{found.parameters:,}",
        "operations": f"{2 * found.multiplications / 1e6:.1f} MFLOPs (a multiply-add counts as two)",
        "size": f"{found.bytes / 1e6:.2f} MB in half precision",
        "time": f"{found.milliseconds:.2f} ms a face, one CPU thread, batch 1",
    }
    print_facts(facts | {name: "holds" if holds else "exceeded" for name, holds in found.limits.items()})
